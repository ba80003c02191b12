// Charts of figures over time (derpmgmt/lib/charts.py says what is sent). A gap in the figures is a gap in the line.
(() => {
  "use strict";

  const REFRESH_MS = 30000;
  const COLOURS = ["--panel-blue", "--panel-orange", "--panel-green", "--panel-grey"];
  const locale = document.documentElement.lang || undefined;
  // Times are those of whoever looks; days of sums are the panel's.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const DAY = 86400;
  const zoneOf = (chart) => (chart.x.length > 2 && chart.x[1] - chart.x[0] >= DAY ? chart.zone : zone || chart.zone);
  // What a canvas can paint with, of a colour that the style sheets compute from others.
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };

  const round = (value, digits) => value.toLocaleString(locale, { maximumFractionDigits: digits });
  // 1,234,567 with steps of 1,000 and their names: "1.23 MB".
  const scaled = (value, names) => {
    let at = 0;
    let rest = value;
    while (Math.abs(rest) >= 1000 && at < names.length - 1) { rest /= 1000; at += 1; }
    return `${round(rest, Math.abs(rest) < 10 && at ? 2 : 1)} ${names[at]}`;
  };
  const units = {
    share: (value) => `${round(100 * value, 1)} %`,
    bytes: (value) => scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"]),
    byte_rate: (value) => scaled(8 * value, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]),
    ms: (value) => `${round(value, 1)} ms`,
    s: (value) => `${round(value, 3)} s`,
    number: (value) => round(value, 2),
  };

  const say = (figure, words) => { figure.querySelector(".chart-box").textContent = words; };

  const legend = (figure, chart, at) => {
    const inWords = units[chart.unit];
    const words = figure.closest(".charts").dataset;
    const list = figure.querySelector(".chart-legend");
    list.replaceChildren(...chart.lines.map((line, number) => {
      const known = line.y.filter((value) => value !== null);
      const value = at === null ? line.y.findLast((each) => each !== null) : line.y[at];
      const entry = document.createElement("li");
      entry.className = `chart-${(number % COLOURS.length) + 1}`;
      const shown = document.createElement("b");
      shown.textContent = value === null || value === undefined ? "–" : inWords(value);
      entry.append(`${line.label} `, shown);
      if (at === null && known.length && !line.isPeak) entry.append(` · ${words.highest} ${inWords(Math.max(...known))}`);
      return entry;
    }));
  };

  const draw = (figure, chart) => {
    const box = figure.querySelector(".chart-box");
    figure.plot?.destroy();
    figure.plot = null;
    if (chart.lines.every((line) => line.y.every((value) => value === null))) {
      figure.querySelector(".chart-legend").replaceChildren();
      say(figure, figure.closest(".charts").dataset.none);
      return;
    }
    box.textContent = "";
    const axis = { stroke: colour("--panel-quiet"), grid: { stroke: colour("--panel-line"), width: 1 }, ticks: { show: false }, font: "12px sans-serif" };
    const [from, to] = [chart.x[0], chart.x.at(-1)];
    const known = chart.lines.flatMap((line) => line.y.filter((value) => value !== null));
    const [lowest, highest] = [Math.min(0, ...known), Math.max(0, ...known)];
    figure.plot = new window.uPlot({
      width: box.clientWidth,
      height: box.clientHeight,
      tzDate: (seconds) => window.uPlot.tzDate(new Date(1000 * seconds), zoneOf(chart)),
      legend: { show: false },
      cursor: { y: false, points: { size: 6 } },
      // Of one figure alone the axes would be made up.
      scales: { x: { range: () => [from, to] }, y: { range: () => [1.1 * lowest, 1.1 * highest || (lowest ? 0 : 1)] } },
      axes: [
        { ...axis, space: 60, size: 32, values: (_plot, splits) => splits.map((at) => moment(at, to - from, zoneOf(chart))) },
        { ...axis, size: 76, values: (_plot, splits) => splits.map(units[chart.unit]) },
      ],
      series: [{}, ...chart.lines.map((line, number) => ({
        label: line.label, width: line.isPeak ? 1 : 1.5, alpha: line.isPeak ? 0.6 : 1, spanGaps: false, points: { show: true, size: 4, width: 0, filter: alone, fill: colour(COLOURS[number % COLOURS.length]) },
        stroke: colour(COLOURS[number % COLOURS.length]),
      }))],
      hooks: { setCursor: [(plot) => legend(figure, chart, plot.cursor.idx ?? null)] },
    }, [chart.x, ...chart.lines.map((line) => line.y)], box);
    legend(figure, chart, null);
  };

  // What stands between two gaps is no line: those get a point.
  const alone = (plot, series) => plot.data[series].flatMap((value, at, all) =>
    (value !== null && (all[at - 1] ?? null) === null && (all[at + 1] ?? null) === null ? [at] : []));

  const moment = (at, length, timeZone) => new Intl.DateTimeFormat(locale, length <= 2 * DAY
    ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone }
    : length <= 200 * DAY ? { month: "2-digit", day: "2-digit", timeZone } : { year: "numeric", month: "2-digit", timeZone }).format(new Date(1000 * at));

  const fetchOne = async (figure) => {
    try {
      const answer = await fetch(figure.dataset.chart, { headers: { Accept: "application/json" } });
      if (!answer.ok || !(answer.headers.get("Content-Type") ?? "").startsWith("application/json")) throw new Error(String(answer.status));
      figure.chart = await answer.json();
      draw(figure, figure.chart);
    } catch {
      // What is drawn stays.
      if (!figure.chart) say(figure, figure.closest(".charts").dataset.failed);
    }
    const x = figure.chart?.x ?? [];
    if (!x.length || x.at(-1) - x[0] <= DAY) setTimeout(() => fetchWhenSeen(figure), REFRESH_MS);
  };
  // Only what is looked at is asked for.
  const watcher = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (!entry.isIntersecting) return;
    watcher.unobserve(entry.target);
    fetchOne(entry.target);
  }));
  const fetchWhenSeen = (figure) => { if (figure.isConnected) watcher.observe(figure); };

  const figures = [...document.querySelectorAll("[data-chart]")];
  figures.forEach(fetchWhenSeen);
  const again = () => figures.forEach((figure) => { if (figure.chart) draw(figure, figure.chart); });
  new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; again(); } });
})();
