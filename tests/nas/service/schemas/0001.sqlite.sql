BEGIN TRANSACTION;
CREATE TABLE artefacts (
	job_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	epoch INTEGER NOT NULL, 
	created_s DOUBLE NOT NULL, 
	CONSTRAINT artefacts_pk PRIMARY KEY (job_id, path), 
	CONSTRAINT artefacts_job_id_fk FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT artefacts_sha256_fk FOREIGN KEY(sha256) REFERENCES blobs (sha256)
);
INSERT INTO "artefacts" VALUES('id0','path0','sha2560',0,1700000000.0);
INSERT INTO "artefacts" VALUES('id0','path1','sha2561',1,1700000001.0);
CREATE TABLE blobs (
	sha256 TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	touched_s DOUBLE NOT NULL, 
	CONSTRAINT blobs_pk PRIMARY KEY (sha256)
);
INSERT INTO "blobs" VALUES('sha2560',0,1700000000.0,1700000000.0);
INSERT INTO "blobs" VALUES('sha2561',1,1700000001.0,1700000001.0);
CREATE TABLE devices (
	name TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	seen_s DOUBLE, 
	fingerprint TEXT, 
	offers TEXT, 
	versions TEXT, 
	canary TEXT, 
	revoked_s DOUBLE, 
	CONSTRAINT devices_pk PRIMARY KEY (name), 
	CONSTRAINT devices_created_by_fk FOREIGN KEY(created_by) REFERENCES users (id)
);
INSERT INTO "devices" VALUES('name0','id0',1700000000.0,1700000000.0,'{"a":[0,null]}','{"a":[0,null]}','{"a":[0,null]}','{"a":[0,null]}',1700000000.0);
INSERT INTO "devices" VALUES('name1','id1',1700000001.0,1700000001.0,'{"a":[1,null]}','{"a":[1,null]}','{"a":[1,null]}','{"a":[1,null]}',1700000001.0);
CREATE TABLE enrolments (
	hash TEXT NOT NULL, 
	device TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	used_s DOUBLE, 
	CONSTRAINT enrolments_pk PRIMARY KEY (hash), 
	CONSTRAINT enrolments_created_by_fk FOREIGN KEY(created_by) REFERENCES users (id)
);
INSERT INTO "enrolments" VALUES('hash0','device0','id0',1700000000.0,1700000000.0,1700000000.0);
INSERT INTO "enrolments" VALUES('hash1','device1','id0',1700000001.0,1700000001.0,1700000001.0);
CREATE TABLE events (
	job_id TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	at_s DOUBLE NOT NULL, 
	kind TEXT NOT NULL, 
	data TEXT NOT NULL, 
	epoch INTEGER NOT NULL, 
	n INTEGER, 
	CONSTRAINT events_pk PRIMARY KEY (job_id, seq), 
	CONSTRAINT events_job_id_fk FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT events_job_id_epoch_n_key UNIQUE (job_id, epoch, n)
);
INSERT INTO "events" VALUES('id0',0,1700000000.0,'kind0','{"a":[0,null]}',0,NULL);
INSERT INTO "events" VALUES('id0',1,1700000001.0,'kind1','{"a":[1,null]}',1,1);
CREATE TABLE jobs (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	epoch INTEGER NOT NULL, 
	worker TEXT, 
	claim TEXT, 
	lease_expires_s DOUBLE, 
	cancel_s DOUBLE, 
	not_before_s DOUBLE, 
	faults INTEGER NOT NULL, 
	memory_faults INTEGER NOT NULL, 
	parent TEXT, 
	"key" TEXT, 
	key_digest TEXT, 
	created_s DOUBLE NOT NULL, 
	started_s DOUBLE, 
	finished_s DOUBLE, 
	last_seq INTEGER NOT NULL, 
	logs INTEGER NOT NULL, 
	progress TEXT, 
	stages TEXT, 
	error TEXT, 
	result TEXT, 
	CONSTRAINT jobs_pk PRIMARY KEY (id), 
	CONSTRAINT jobs_ended_check CHECK ((finished_s IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))), 
	CONSTRAINT jobs_owner_fk FOREIGN KEY(owner) REFERENCES users (id), 
	CONSTRAINT jobs_parent_fk FOREIGN KEY(parent) REFERENCES jobs (id), 
	CONSTRAINT jobs_owner_key_key UNIQUE (owner, "key")
);
INSERT INTO "jobs" VALUES('id0','id0','name0','run','{"a":[0,null]}',0,'SUCCEEDED',0,'worker0','claim0',NULL,1700000000.0,NULL,0,0,NULL,'key0','key_digest0',1700000000.0,1700000000.0,1700000000.0,0,0,'{"a":[0,null]}','{"a":[0,null]}','{"a":[0,null]}','{"a":[0,null]}');
INSERT INTO "jobs" VALUES('id1','id0','name1','run','{"a":[1,null]}',1,'RUNNING',1,'worker1','claim1',1700000000.0,1700000001.0,NULL,1,1,'id0','key1','key_digest1',1700000001.0,1700000001.0,NULL,1,1,'{"a":[1,null]}','{"a":[1,null]}','{"a":[1,null]}','{"a":[1,null]}');
INSERT INTO "jobs" VALUES('id2','id0','name2','run','{"a":[2,null]}',2,'QUEUED',2,'worker2','claim2',NULL,1700000002.0,NULL,2,2,'id0','key2','key_digest2',1700000002.0,1700000002.0,NULL,2,2,'{"a":[2,null]}','{"a":[2,null]}','{"a":[2,null]}','{"a":[2,null]}');
CREATE TABLE rounds (
	task_id TEXT NOT NULL, 
	epoch INTEGER NOT NULL, 
	n INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	CONSTRAINT rounds_pk PRIMARY KEY (task_id, epoch, n), 
	CONSTRAINT rounds_task_id_fk FOREIGN KEY(task_id) REFERENCES tasks (id)
);
INSERT INTO "rounds" VALUES('id0',0,0,'{"a":[0,null]}',1700000000.0);
INSERT INTO "rounds" VALUES('id0',1,1,'{"a":[1,null]}',1700000001.0);
CREATE TABLE service_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT service_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "service_version" VALUES('0001');
CREATE TABLE sessions (
	hash TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	csrf TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	CONSTRAINT sessions_pk PRIMARY KEY (hash), 
	CONSTRAINT sessions_user_id_fk FOREIGN KEY(user_id) REFERENCES users (id)
);
INSERT INTO "sessions" VALUES('hash0','id0','csrf0',1700000000.0,1700000000.0);
INSERT INTO "sessions" VALUES('hash1','id1','csrf1',1700000001.0,1700000001.0);
CREATE TABLE tasks (
	id TEXT NOT NULL, 
	device TEXT NOT NULL, 
	job_id TEXT, 
	owner TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	state TEXT NOT NULL, 
	payload TEXT NOT NULL, 
	epoch INTEGER NOT NULL, 
	lease_expires_s DOUBLE, 
	attempts INTEGER NOT NULL, 
	created_s DOUBLE NOT NULL, 
	started_s DOUBLE, 
	finished_s DOUBLE, 
	result TEXT, 
	error TEXT, 
	CONSTRAINT tasks_pk PRIMARY KEY (id), 
	CONSTRAINT tasks_device_fk FOREIGN KEY(device) REFERENCES devices (name), 
	CONSTRAINT tasks_job_id_fk FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT tasks_owner_fk FOREIGN KEY(owner) REFERENCES users (id), 
	CONSTRAINT tasks_job_id_key_key UNIQUE (job_id, "key")
);
INSERT INTO "tasks" VALUES('id0','name0',NULL,'id0','key0','state0','{"a":[0,null]}',0,1700000000.0,0,1700000000.0,1700000000.0,1700000000.0,'{"a":[0,null]}','{"a":[0,null]}');
INSERT INTO "tasks" VALUES('id1','name0','id0','id0','key1','state1','{"a":[1,null]}',1,1700000001.0,1,1700000001.0,1700000001.0,1700000001.0,'{"a":[1,null]}','{"a":[1,null]}');
CREATE TABLE tokens (
	id TEXT NOT NULL, 
	user_id TEXT, 
	device TEXT, 
	label TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	expires_s DOUBLE, 
	revoked_s DOUBLE, 
	used_s DOUBLE, 
	CONSTRAINT tokens_pk PRIMARY KEY (id), 
	CONSTRAINT tokens_device_fk FOREIGN KEY(device) REFERENCES devices (name), 
	CONSTRAINT tokens_user_id_fk FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT tokens_hash_key UNIQUE (hash)
);
INSERT INTO "tokens" VALUES('id0','id0',NULL,'label0','hash0','{"a":[0,null]}',1700000000.0,1700000000.0,1700000000.0,1700000000.0);
INSERT INTO "tokens" VALUES('id1',NULL,'name0','label1','hash1','{"a":[1,null]}',1700000001.0,1700000001.0,1700000001.0,1700000001.0);
CREATE TABLE uploads (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	facts TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	CONSTRAINT uploads_pk PRIMARY KEY (id), 
	CONSTRAINT uploads_owner_fk FOREIGN KEY(owner) REFERENCES users (id), 
	CONSTRAINT uploads_sha256_fk FOREIGN KEY(sha256) REFERENCES blobs (sha256)
);
INSERT INTO "uploads" VALUES('id0','id0','kind0','name0','sha2560',0,'{"a":[0,null]}',1700000000.0);
INSERT INTO "uploads" VALUES('id1','id0','kind1','name1','sha2561',1,'{"a":[1,null]}',1700000001.0);
CREATE TABLE users (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	admin BOOLEAN NOT NULL, 
	max_running INTEGER NOT NULL, 
	max_queued INTEGER NOT NULL, 
	created_s DOUBLE NOT NULL, 
	CONSTRAINT users_pk PRIMARY KEY (id), 
	CONSTRAINT users_name_key UNIQUE (name)
);
INSERT INTO "users" VALUES('id0','name0',0,0,0,1700000000.0);
INSERT INTO "users" VALUES('id1','name1',1,1,1,1700000001.0);
CREATE TABLE workers (
	id TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	started_s DOUBLE NOT NULL, 
	seen_s DOUBLE NOT NULL, 
	stopped_s DOUBLE, 
	CONSTRAINT workers_pk PRIMARY KEY (id)
);
INSERT INTO "workers" VALUES('id0','host0',0,1700000000.0,1700000000.0,1700000000.0);
INSERT INTO "workers" VALUES('id1','host1',1,1700000001.0,1700000001.0,1700000001.0);
CREATE INDEX sessions_user_id_index ON sessions (user_id);
CREATE INDEX jobs_limit_index ON jobs (owner, state) WHERE finished_s IS NULL;
CREATE INDEX jobs_order_index ON jobs (priority DESC, created_s, id, state) WHERE finished_s IS NULL;
CREATE INDEX jobs_owner_index ON jobs (owner, id);
CREATE INDEX jobs_parent_index ON jobs (parent);
CREATE INDEX jobs_state_index ON jobs (state, id);
CREATE INDEX artefacts_sha256_index ON artefacts (sha256);
CREATE INDEX uploads_owner_index ON uploads (owner, id);
CREATE INDEX uploads_sha256_index ON uploads (sha256);
CREATE INDEX tokens_device_index ON tokens (device);
CREATE INDEX tokens_user_id_index ON tokens (user_id);
CREATE INDEX tasks_device_index ON tasks (device, state, id);
CREATE TRIGGER jobs_ended_stay BEFORE UPDATE ON jobs WHEN OLD.finished_s IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a job that has ended does not change'); END;
COMMIT;
