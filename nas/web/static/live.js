// One job while it runs: its events as they come, drawn at most four times a second.
(() => {
  "use strict";
  const SYMBOLS = ["circle", "square", "triangle-up", "cross", "pentagon", "star"];
  const COLORS = 6, MOST_LINES = 1000, DRAW_MS = 250, RENEW_MS = 1000, ANYWAY_MS = 15000;
  const FIRST_RETRY_MS = 2000, LONGEST_RETRY_MS = 60000;
  const ENDED = ["SUCCEEDED", "FAILED", "CANCELLED"];
  const at = (id) => document.getElementById(id);
  const read = () => JSON.parse(at("picture").textContent);
  let picture = read();
  let drawnAt = 0, renewing = null, waiting = false;
  const lines = [];
  const dirty = new Set();

  const of = (part, device, empty) => {
    if (!picture.devices.includes(device)) picture.devices.push(device);
    return (picture[part][device] ??= empty);
  };

  // Points that no other one beats in both, from left to right.
  const frontOf = (points) => {
    let best = -Infinity;
    return [...points].sort((a, b) => a.latency_ms - b.latency_ms || b.accuracy - a.accuracy)
      .filter((point) => point.accuracy > best && (best = point.accuracy) > -Infinity);
  };

  const column = (points, key) => points.map((point) => point[key]);
  const percents = (points) => points.map((point) => 100 * point.accuracy);
  const text = (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const hover = (points, measured) => points.map((point) => {
    const found = measured[point.arch_id];
    const known = [`${(100 * point.accuracy).toFixed(2)}%`, `predicted ${point.latency_ms.toPrecision(3)} ms`];
    if (found !== undefined) known.push(`measured ${found.toPrecision(3)} ms`);
    return [text(point.arch_id), ...known].join("<br>");
  });

  const frontTraces = (device, index) => {
    const color = `@device-${index % COLORS}`, symbol = SYMBOLS[index % SYMBOLS.length];
    const points = Object.values(picture.points[device] ?? {});
    const measured = picture.measured[device] ?? {};
    const front = frontOf(picture.fronts[device] ?? points);
    const known = new Set(column(front, "arch_id"));
    const past = points.filter((point) => !known.has(point.arch_id));
    const checked = front.filter((point) => measured[point.arch_id] !== undefined);
    const shared = { type: "scatter", legendgroup: device, hoverinfo: "text" };
    return [
      { ...shared, mode: "markers", showlegend: false, x: column(past, "latency_ms"), y: percents(past),
        hovertext: hover(past, {}), marker: { color, symbol, size: 5, opacity: 0.35 } },
      { ...shared, mode: "lines", showlegend: false, hoverinfo: "skip", line: { color, width: 1 },
        x: checked.flatMap((point) => [point.latency_ms, measured[point.arch_id], null]),
        y: checked.flatMap((point) => [100 * point.accuracy, 100 * point.accuracy, null]) },
      { ...shared, mode: "lines+markers", name: text(device), x: column(front, "latency_ms"), y: percents(front),
        hovertext: hover(front, measured), line: { color, shape: "hv", width: 1.5 },
        marker: { color, symbol, size: 8 } },
      { ...shared, mode: "markers", name: `${text(device)}, measured`, showlegend: checked.length > 0,
        x: checked.map((point) => measured[point.arch_id]), y: percents(checked),
        hovertext: hover(checked, measured), marker: { color, symbol: "diamond-open", size: 11, line: { width: 2 } } },
    ];
  };

  const volumeTraces = (device, index) => {
    const color = `@device-${index % COLORS}`;
    const curve = (points, name, extra) => ({ type: "scatter", mode: "lines", name: text(name), legendgroup: device,
      x: points.map(([evaluations]) => evaluations), y: points.map(([, volume]) => volume),
      line: { color, ...extra } });
    const seeds = Object.entries(picture.volumes[device] ?? {});
    const last = Math.max(0, ...seeds.flatMap(([, points]) => points.map(([evaluations]) => evaluations)));
    const uniform = picture.uniform[device];
    return [
      ...seeds.map(([seed, points], nth) => ({
        ...curve(points, device, { width: 2 }), mode: "lines+markers", marker: { size: 5, color },
        showlegend: nth === 0,
        hovertemplate: `%{y:.4f} after %{x}, seed ${text(seed)}<extra></extra>`,
      })),
      ...(picture.random[device] ?? []).map((points, nth) =>
        ({ ...curve(points, `${device}, random`, { width: 1.5, dash: "dash" }), showlegend: nth === 0 })),
      ...(uniform === undefined || uniform === null ? [] :
        [curve([[0, uniform], [last, uniform]], `${device}, uniform`, { width: 1.5, dash: "dot" })]),
    ];
  };

  // Logarithmic where the values lie far apart, with round numbers on the axis, as in the reports.
  const scaled = (layout, traces) => {
    const values = traces.flatMap((trace) => trace.x).filter((value) => value > 0);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), 0);
    if (high <= 4 * low) return { ...layout, xaxis: { ...layout.xaxis, type: "linear" } };
    const steps = high < 20 * low ? [1, 2, 3, 5, 7] : high < 1000 * low ? [1, 2, 5] : [1];
    const decades = Array.from({ length: 19 }, (_, index) => index - 6);
    const tickvals = decades.flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)));
    return { ...layout, xaxis: { ...layout.xaxis, type: "log", tickvals, ticktext: tickvals.map(String) } };
  };

  const DRAWN = {
    front: () => {
      const data = picture.devices.flatMap(frontTraces);
      const any = data.some((trace) => trace.x.length > 0);
      at("front").parentElement.hidden = !any;
      at("no-front").hidden = any;
      if (any) Figures.show("front", { data, layout: scaled(picture.layouts.front, data) });
    },
    volume: () => {
      const data = picture.devices.flatMap(volumeTraces);
      at("volume").parentElement.hidden = data.length === 0;
      if (data.length > 0) Figures.show("volume", { data, layout: picture.layouts.volume });
    },
    log: () => {
      const list = at("log");
      const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      list.append(...lines.splice(0).slice(-MOST_LINES).map(lineOf));
      while (list.childElementCount > MOST_LINES) list.firstElementChild.remove();
      if (atEnd) list.scrollTop = list.scrollHeight;
    },
    progress: () => {
      const { progress } = picture;
      at("progress").hidden = !progress;
      if (!progress) return;
      at("progress-text").textContent = progress.words;
      at("progress-bar").hidden = !progress.total;
      at("progress-bar").max = progress.total || 1;
      at("progress-bar").value = progress.done;
      at("progress-bar").setAttribute("aria-label", progress.stage);
    },
  };

  const lineOf = ({ at_s, level, text: words, stage }) => {
    const line = document.createElement("li");
    const when = document.createElement("time"), said = document.createElement("span");
    const iso = new Date(1000 * at_s).toISOString();
    when.dateTime = iso;
    when.textContent = iso.slice(11, 19);
    line.className = level;
    if (level !== "info") {
      const mark = document.createElement("b");
      mark.textContent = `${level}: `;
      said.append(mark);
    }
    said.append(stage ? `${stage}: ${words}` : words);
    line.append(when, said);
    return line;
  };

  const frame = (now) => {
    if (now - drawnAt < DRAW_MS) {
      requestAnimationFrame(frame);
      return;
    }
    waiting = false;
    drawnAt = now;
    const parts = [...dirty];
    dirty.clear();
    parts.filter((part) => at(part)).forEach((part) => DRAWN[part]());
  };

  const touch = (part) => {
    dirty.add(part);
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(frame);
    }
  };

  // What the server renders, a second after the first event that changes it. At the end of the job also what is drawn.
  const renew = (ended = false) => {
    if (ended) clearTimeout(renewing);
    else if (renewing) return;
    renewing = setTimeout(async () => {
      renewing = null;
      await Parts.renew();
      if (ended) {
        picture = read();
        Object.keys(DRAWN).filter((part) => part !== "log").forEach(touch);
      }
    }, ended ? 0 : RENEW_MS);
  };

  const HEARD = {
    point: (data) => {
      of("points", data.device, {})[data.arch_id] ??= data;
      touch("front");
    },
    measured: (data) => {
      of("measured", data.device, {})[data.arch_id] = data.latency_ms;
      touch("front");
    },
    volume: (data) => {
      const curve = (of("volumes", data.device, {})[data.seed ?? 0] ??= []);
      // A search that goes on after a kill tells again what it told before.
      if (curve.some(([evaluations]) => evaluations === data.evaluations)) return;
      curve.push([data.evaluations, data.hypervolume]);
      touch("volume");
    },
    progress: (data) => {
      picture.progress = { ...data, words: [data.stage, data.text].filter(Boolean).join(": ") };
      touch("progress");
    },
    log: (data) => {
      lines.push(data);
      if (lines.length > MOST_LINES) lines.shift();
      touch("log");
    },
    stage: () => renew(),
    artefact: () => renew(),
    state: (data) => {
      if (ENDED.includes(data.state)) {
        picture.ended = true;
        mute();
        picture.progress = null;
        touch("progress");
      }
      renew(ENDED.includes(data.state));
    },
  };

  let source = null, retryMs = FIRST_RETRY_MS;
  const mute = () => {
    source?.close();
    source = null;
  };

  // A browser has six connections to a host for all of its tabs: one that nobody looks at gives its own back, and goes on from
  // the last event that it has heard when somebody does.
  const listen = () => {
    if (picture.ended || document.hidden || source) return;
    source = new EventSource(`/v1/jobs/${picture.job}/events?after=${picture.seq}`);
    for (const [kind, heard] of Object.entries(HEARD)) {
      source.addEventListener(kind, (event) => {
        picture.seq = Number(event.lastEventId);
        heard(JSON.parse(event.data));
      });
    }
    source.onopen = () => {
      retryMs = FIRST_RETRY_MS;
      Parts.tell("fine");
    };
    source.onerror = () => {
      Parts.tell("away");
      // Where the connection broke, the browser tries again by itself; where a proxy answered in place of the service, or the
      // login is over, it does not.
      if (source.readyState === EventSource.CLOSED) {
        mute();
        later();
      }
    };
  };

  const later = () => {
    setTimeout(async () => {
      if ((await Parts.renew()) === "fine") listen();
      else later();
    }, retryMs);
    retryMs = Math.min(2 * retryMs, LONGEST_RETRY_MS);
  };

  at("level").addEventListener("change", (event) => { at("log").dataset.level = event.target.value; });
  at("level-go").hidden = true;
  at("log").scrollTop = at("log").scrollHeight;
  Object.keys(DRAWN).forEach(touch);
  listen();
  document.addEventListener("visibilitychange", () => (document.hidden ? mute() : listen()));
  // What no event tells: how long it has run, its place in the queue; and, in a tab that nobody looks at, the title.
  setInterval(() => { if (!picture.ended) Parts.renew(); }, ANYWAY_MS);
})();
