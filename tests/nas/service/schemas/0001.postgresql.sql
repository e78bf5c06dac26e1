CREATE FUNCTION jobs_ended_stay() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
        RAISE EXCEPTION 'a job that has ended does not change' USING ERRCODE = 'integrity_constraint_violation';
        END $$;
CREATE TABLE artefacts (
    job_id text NOT NULL,
    path text NOT NULL,
    sha256 text NOT NULL,
    epoch integer NOT NULL,
    created_s double precision NOT NULL
);
CREATE TABLE blobs (
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    created_s double precision NOT NULL,
    touched_s double precision NOT NULL
);
CREATE TABLE devices (
    name text NOT NULL,
    created_by text NOT NULL,
    created_s double precision NOT NULL,
    seen_s double precision,
    fingerprint text,
    offers text,
    versions text,
    canary text,
    revoked_s double precision
);
CREATE TABLE enrolments (
    hash text NOT NULL,
    device text NOT NULL,
    created_by text NOT NULL,
    created_s double precision NOT NULL,
    expires_s double precision NOT NULL,
    used_s double precision
);
CREATE TABLE events (
    job_id text NOT NULL,
    seq integer NOT NULL,
    at_s double precision NOT NULL,
    kind text NOT NULL,
    data text NOT NULL,
    epoch integer NOT NULL,
    n integer
);
CREATE TABLE jobs (
    id text NOT NULL,
    owner text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    spec text NOT NULL,
    priority integer NOT NULL,
    state text NOT NULL,
    epoch integer NOT NULL,
    worker text,
    claim text,
    lease_expires_s double precision,
    cancel_s double precision,
    not_before_s double precision,
    faults integer NOT NULL,
    memory_faults integer NOT NULL,
    parent text,
    key text,
    key_digest text,
    created_s double precision NOT NULL,
    started_s double precision,
    finished_s double precision,
    last_seq integer NOT NULL,
    logs integer NOT NULL,
    progress text,
    stages text,
    error text,
    result text,
    CONSTRAINT jobs_ended_check CHECK (((finished_s IS NOT NULL) = (state = ANY (ARRAY['SUCCEEDED'::text, 'FAILED'::text, 'CANCELLED'::text]))))
);
CREATE TABLE rounds (
    task_id text NOT NULL,
    epoch integer NOT NULL,
    n integer NOT NULL,
    data text NOT NULL,
    created_s double precision NOT NULL
);
CREATE TABLE service_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE sessions (
    hash text NOT NULL,
    user_id text NOT NULL,
    csrf text NOT NULL,
    created_s double precision NOT NULL,
    expires_s double precision NOT NULL
);
CREATE TABLE tasks (
    id text NOT NULL,
    device text NOT NULL,
    job_id text,
    owner text NOT NULL,
    key text NOT NULL,
    state text NOT NULL,
    payload text NOT NULL,
    epoch integer NOT NULL,
    lease_expires_s double precision,
    attempts integer NOT NULL,
    created_s double precision NOT NULL,
    started_s double precision,
    finished_s double precision,
    result text,
    error text
);
CREATE TABLE tokens (
    id text NOT NULL,
    user_id text,
    device text,
    label text NOT NULL,
    hash text NOT NULL,
    scopes text NOT NULL,
    created_s double precision NOT NULL,
    expires_s double precision,
    revoked_s double precision,
    used_s double precision
);
CREATE TABLE uploads (
    id text NOT NULL,
    owner text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    facts text NOT NULL,
    created_s double precision NOT NULL
);
CREATE TABLE users (
    id text NOT NULL,
    name text NOT NULL,
    admin boolean NOT NULL,
    max_running integer NOT NULL,
    max_queued integer NOT NULL,
    created_s double precision NOT NULL
);
CREATE TABLE workers (
    id text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_s double precision NOT NULL,
    seen_s double precision NOT NULL,
    stopped_s double precision
);
INSERT INTO artefacts VALUES ('id0', 'path0', 'sha2560', 0, 1700000000);
INSERT INTO artefacts VALUES ('id0', 'path1', 'sha2561', 1, 1700000001);
INSERT INTO blobs VALUES ('sha2560', 0, 1700000000, 1700000000);
INSERT INTO blobs VALUES ('sha2561', 1, 1700000001, 1700000001);
INSERT INTO devices VALUES ('name0', 'id0', 1700000000, 1700000000, '{"a":[0,null]}', '{"a":[0,null]}', '{"a":[0,null]}', '{"a":[0,null]}', 1700000000);
INSERT INTO devices VALUES ('name1', 'id1', 1700000001, 1700000001, '{"a":[1,null]}', '{"a":[1,null]}', '{"a":[1,null]}', '{"a":[1,null]}', 1700000001);
INSERT INTO enrolments VALUES ('hash0', 'device0', 'id0', 1700000000, 1700000000, 1700000000);
INSERT INTO enrolments VALUES ('hash1', 'device1', 'id0', 1700000001, 1700000001, 1700000001);
INSERT INTO events VALUES ('id0', 0, 1700000000, 'kind0', '{"a":[0,null]}', 0, NULL);
INSERT INTO events VALUES ('id0', 1, 1700000001, 'kind1', '{"a":[1,null]}', 1, 1);
INSERT INTO jobs VALUES ('id0', 'id0', 'name0', 'run', '{"a":[0,null]}', 0, 'SUCCEEDED', 0, 'worker0', 'claim0', NULL, 1700000000, NULL, 0, 0, NULL, 'key0', 'key_digest0', 1700000000, 1700000000, 1700000000, 0, 0, '{"a":[0,null]}', '{"a":[0,null]}', '{"a":[0,null]}', '{"a":[0,null]}');
INSERT INTO jobs VALUES ('id1', 'id0', 'name1', 'run', '{"a":[1,null]}', 1, 'RUNNING', 1, 'worker1', 'claim1', 1700000000, 1700000001, NULL, 1, 1, 'id0', 'key1', 'key_digest1', 1700000001, 1700000001, NULL, 1, 1, '{"a":[1,null]}', '{"a":[1,null]}', '{"a":[1,null]}', '{"a":[1,null]}');
INSERT INTO jobs VALUES ('id2', 'id0', 'name2', 'run', '{"a":[2,null]}', 2, 'QUEUED', 2, 'worker2', 'claim2', NULL, 1700000002, NULL, 2, 2, 'id0', 'key2', 'key_digest2', 1700000002, 1700000002, NULL, 2, 2, '{"a":[2,null]}', '{"a":[2,null]}', '{"a":[2,null]}', '{"a":[2,null]}');
INSERT INTO rounds VALUES ('id0', 0, 0, '{"a":[0,null]}', 1700000000);
INSERT INTO rounds VALUES ('id0', 1, 1, '{"a":[1,null]}', 1700000001);
INSERT INTO service_version VALUES ('0001');
INSERT INTO sessions VALUES ('hash0', 'id0', 'csrf0', 1700000000, 1700000000);
INSERT INTO sessions VALUES ('hash1', 'id1', 'csrf1', 1700000001, 1700000001);
INSERT INTO tasks VALUES ('id0', 'name0', NULL, 'id0', 'key0', 'state0', '{"a":[0,null]}', 0, 1700000000, 0, 1700000000, 1700000000, 1700000000, '{"a":[0,null]}', '{"a":[0,null]}');
INSERT INTO tasks VALUES ('id1', 'name0', 'id0', 'id0', 'key1', 'state1', '{"a":[1,null]}', 1, 1700000001, 1, 1700000001, 1700000001, 1700000001, '{"a":[1,null]}', '{"a":[1,null]}');
INSERT INTO tokens VALUES ('id0', 'id0', NULL, 'label0', 'hash0', '{"a":[0,null]}', 1700000000, 1700000000, 1700000000, 1700000000);
INSERT INTO tokens VALUES ('id1', NULL, 'name0', 'label1', 'hash1', '{"a":[1,null]}', 1700000001, 1700000001, 1700000001, 1700000001);
INSERT INTO uploads VALUES ('id0', 'id0', 'kind0', 'name0', 'sha2560', 0, '{"a":[0,null]}', 1700000000);
INSERT INTO uploads VALUES ('id1', 'id0', 'kind1', 'name1', 'sha2561', 1, '{"a":[1,null]}', 1700000001);
INSERT INTO users VALUES ('id0', 'name0', false, 0, 0, 1700000000);
INSERT INTO users VALUES ('id1', 'name1', true, 1, 1, 1700000001);
INSERT INTO workers VALUES ('id0', 'host0', 0, 1700000000, 1700000000, 1700000000);
INSERT INTO workers VALUES ('id1', 'host1', 1, 1700000001, 1700000001, 1700000001);
ALTER TABLE ONLY artefacts
    ADD CONSTRAINT artefacts_pk PRIMARY KEY (job_id, path);
ALTER TABLE ONLY blobs
    ADD CONSTRAINT blobs_pk PRIMARY KEY (sha256);
ALTER TABLE ONLY devices
    ADD CONSTRAINT devices_pk PRIMARY KEY (name);
ALTER TABLE ONLY enrolments
    ADD CONSTRAINT enrolments_pk PRIMARY KEY (hash);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_job_id_epoch_n_key UNIQUE (job_id, epoch, n);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_pk PRIMARY KEY (job_id, seq);
ALTER TABLE ONLY jobs
    ADD CONSTRAINT jobs_owner_key_key UNIQUE (owner, key);
ALTER TABLE ONLY jobs
    ADD CONSTRAINT jobs_pk PRIMARY KEY (id);
ALTER TABLE ONLY rounds
    ADD CONSTRAINT rounds_pk PRIMARY KEY (task_id, epoch, n);
ALTER TABLE ONLY service_version
    ADD CONSTRAINT service_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY sessions
    ADD CONSTRAINT sessions_pk PRIMARY KEY (hash);
ALTER TABLE ONLY tasks
    ADD CONSTRAINT tasks_job_id_key_key UNIQUE (job_id, key);
ALTER TABLE ONLY tasks
    ADD CONSTRAINT tasks_pk PRIMARY KEY (id);
ALTER TABLE ONLY tokens
    ADD CONSTRAINT tokens_hash_key UNIQUE (hash);
ALTER TABLE ONLY tokens
    ADD CONSTRAINT tokens_pk PRIMARY KEY (id);
ALTER TABLE ONLY uploads
    ADD CONSTRAINT uploads_pk PRIMARY KEY (id);
ALTER TABLE ONLY users
    ADD CONSTRAINT users_name_key UNIQUE (name);
ALTER TABLE ONLY users
    ADD CONSTRAINT users_pk PRIMARY KEY (id);
ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pk PRIMARY KEY (id);
CREATE INDEX artefacts_sha256_index ON artefacts USING btree (sha256);
CREATE INDEX jobs_limit_index ON jobs USING btree (owner, state) WHERE (finished_s IS NULL);
CREATE INDEX jobs_order_index ON jobs USING btree (priority DESC, created_s, id, state) WHERE (finished_s IS NULL);
CREATE INDEX jobs_owner_index ON jobs USING btree (owner, id);
CREATE INDEX jobs_parent_index ON jobs USING btree (parent);
CREATE INDEX jobs_state_index ON jobs USING btree (state, id);
CREATE INDEX sessions_user_id_index ON sessions USING btree (user_id);
CREATE INDEX tasks_device_index ON tasks USING btree (device, state, id);
CREATE INDEX tokens_device_index ON tokens USING btree (device);
CREATE INDEX tokens_user_id_index ON tokens USING btree (user_id);
CREATE INDEX uploads_owner_index ON uploads USING btree (owner, id);
CREATE INDEX uploads_sha256_index ON uploads USING btree (sha256);
CREATE TRIGGER jobs_ended_stay BEFORE UPDATE ON jobs FOR EACH ROW WHEN ((old.finished_s IS NOT NULL)) EXECUTE FUNCTION jobs_ended_stay();
ALTER TABLE ONLY artefacts
    ADD CONSTRAINT artefacts_job_id_fk FOREIGN KEY (job_id) REFERENCES jobs(id);
ALTER TABLE ONLY artefacts
    ADD CONSTRAINT artefacts_sha256_fk FOREIGN KEY (sha256) REFERENCES blobs(sha256);
ALTER TABLE ONLY devices
    ADD CONSTRAINT devices_created_by_fk FOREIGN KEY (created_by) REFERENCES users(id);
ALTER TABLE ONLY enrolments
    ADD CONSTRAINT enrolments_created_by_fk FOREIGN KEY (created_by) REFERENCES users(id);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_job_id_fk FOREIGN KEY (job_id) REFERENCES jobs(id);
ALTER TABLE ONLY jobs
    ADD CONSTRAINT jobs_owner_fk FOREIGN KEY (owner) REFERENCES users(id);
ALTER TABLE ONLY jobs
    ADD CONSTRAINT jobs_parent_fk FOREIGN KEY (parent) REFERENCES jobs(id);
ALTER TABLE ONLY rounds
    ADD CONSTRAINT rounds_task_id_fk FOREIGN KEY (task_id) REFERENCES tasks(id);
ALTER TABLE ONLY sessions
    ADD CONSTRAINT sessions_user_id_fk FOREIGN KEY (user_id) REFERENCES users(id);
ALTER TABLE ONLY tasks
    ADD CONSTRAINT tasks_device_fk FOREIGN KEY (device) REFERENCES devices(name);
ALTER TABLE ONLY tasks
    ADD CONSTRAINT tasks_job_id_fk FOREIGN KEY (job_id) REFERENCES jobs(id);
ALTER TABLE ONLY tasks
    ADD CONSTRAINT tasks_owner_fk FOREIGN KEY (owner) REFERENCES users(id);
ALTER TABLE ONLY tokens
    ADD CONSTRAINT tokens_device_fk FOREIGN KEY (device) REFERENCES devices(name);
ALTER TABLE ONLY tokens
    ADD CONSTRAINT tokens_user_id_fk FOREIGN KEY (user_id) REFERENCES users(id);
ALTER TABLE ONLY uploads
    ADD CONSTRAINT uploads_owner_fk FOREIGN KEY (owner) REFERENCES users(id);
ALTER TABLE ONLY uploads
    ADD CONSTRAINT uploads_sha256_fk FOREIGN KEY (sha256) REFERENCES blobs(sha256);
