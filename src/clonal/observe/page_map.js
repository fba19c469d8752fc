"use strict";
(async () => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const members = data.pids.length, box = byId("map"), canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
  const GUTTER = 160, TOP = 34, HEAD = 24, GAP = 14, BETWEEN = 16, CELL = 7;

  async function unpacked(text, Kind) { // base64 of zlib of little-endian numbers
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Kind(await new Response(stream).arrayBuffer());
  }

  // The cells that are not empty: their numbers, ascending, and of each member the run that each is in.
  const [usedFirst, usedLength] = await Promise.all(data.used.map((each) => unpacked(each, Uint32Array)));
  const count = usedLength.reduce((sum, each) => sum + each, 0);
  const used = new Uint32Array(count);
  usedFirst.forEach((first, run) => {
    if (run === 0) usedFirst.at = 0;
    for (let i = 0; i < usedLength[run]; i++) used[usedFirst.at++] = first + i;
  });
  const layers = await Promise.all(data.members.map(async (packed) => {
    const kinds = { length: Uint32Array, state: Uint8Array, sharers: Uint32Array, present: Uint32Array, alone: Uint32Array, frame: Uint32Array };
    const runs = {};
    for (const name in kinds) runs[name] = await unpacked(packed[name], kinds[name]);
    for (let i = 1; i < runs.frame.length; i++) runs.frame[i] += runs.frame[i - 1];
    const run = new Uint32Array(count), start = new Uint32Array(runs.length.length);
    let at = 0;
    runs.length.forEach((length, number) => { start[number] = at; run.fill(number, at, at + length); at += length; });
    return { ...runs, run, start };
  }));
  const segments = data.segments.map(([start, end, kind, name], number) => ({ start, end, kind, name, first: data.first[number], number }));
  const maps = data.mapped.map((each) => new Set(each));
  { // which of the used cells lie in each segment
    let at = 0;
    segments.forEach((each, number) => {
      const end = number + 1 < segments.length ? segments[number + 1].first : Infinity;
      each.from = at;
      while (at < count && used[at] < end) at++;
      each.to = at;
    });
  }

  // Rows: headings, rows of cells of which one is not empty, and gaps.
  let zoom = 0, across = 64, rows = [], height = 0, only = 0, cursor = null, hovered = null, colours = {};
  const cellsOf = (bytes) => { const units = ["B", "KiB", "MiB", "GiB", "TiB"]; let unit = 0; while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit++; } return `${+bytes.toPrecision(3)} ${units[unit]}`; };
  const pagesPerCell = () => data.step * 2 ** zoom;

  function layout() {
    rows = [];
    let y = TOP;
    const put = (row, size) => { rows.push({ ...row, y, size }); y += size; };
    for (const each of segments) {
      put({ head: each }, HEAD);
      let before = -1;
      for (let at = each.from; at < each.to;) {
        const row = Math.floor(((used[at] - each.first) >>> zoom) / across);
        if (row > before + 1) put({ gap: (row - before - 1) * across * pagesPerCell() * data.page, segment: each }, GAP);
        const from = at, end = each.first + (row + 1) * across * 2 ** zoom;
        while (at < each.to && used[at] < end) at++;
        put({ segment: each, row, from, to: at }, CELL);
        before = row;
      }
    }
    height = y + 24;
    byId("room").style.cssText = `height:${height}px;width:${width()}px`;
    const pages = pagesPerCell();
    byId("scale").textContent = pages === 1 ? "1 page per cell" : `${pages} pages per cell`;
    byId("out").disabled = zoom >= 12;
    byId("in").disabled = zoom === 0;
  }
  const column = () => across * CELL + BETWEEN;
  const width = () => GUTTER + members * column();
  const left = (member) => GUTTER + member * column();

  // What a cell on the screen shows: of the cells in it the most frequent state.
  const tally = new Float64Array(11);
  function stateOf(layer, from, to) {
    if (to - from === 1) { const run = layer.run[from]; return [layer.state[run], layer.alone[run]]; }
    tally.fill(0);
    let alone = 0;
    for (let at = from; at < to; at++) { const run = layer.run[at]; tally[layer.state[run]] += layer.present[run]; alone += layer.alone[run]; }
    let best = 0;
    for (let state = 1; state < 10; state++) if (tally[state] > tally[best]) best = state;
    return [best, alone];
  }
  function eachCell(row, visit) { // visit(column, from, to)
    for (let at = row.from; at < row.to;) {
      const cell = (used[at] - row.segment.first) >>> zoom;
      const from = at;
      while (at < row.to && (used[at] - row.segment.first) >>> zoom === cell) at++;
      visit(cell - row.row * across, from, at);
    }
  }

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ink", "dim", "line", "paper", "wash", "accent", "none", ...data.states]) colours[name] = style.getPropertyValue(`--${name}`).trim();
    colours.list = [colours.none, ...data.states.map((name) => colours[name])];
  }
  function firstVisible(top) {
    let low = 0, high = rows.length;
    while (low < high) { const middle = (low + high) >> 1; if (rows[middle].y + rows[middle].size <= top) low = middle + 1; else high = middle; }
    return low;
  }
  function draw() {
    const ratio = devicePixelRatio || 1, wide = box.clientWidth, tall = box.clientHeight;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(tall * ratio)) {
      canvas.width = Math.round(wide * ratio); canvas.height = Math.round(tall * ratio);
      canvas.style.width = `${wide}px`; canvas.style.height = `${tall}px`;
      canvas.style.marginBottom = `${-tall}px`;
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colours.paper; pen.fillRect(0, 0, wide, tall);
    const dx = box.scrollLeft, dy = box.scrollTop;
    for (let index = firstVisible(dy + TOP); index < rows.length && rows[index].y < dy + tall; index++) drawRow(rows[index], dx, dy, wide);
    drawMark(cursor, colours.ink, dx, dy);
    drawMark(hovered, colours.ink, dx, dy);
    drawTop(dx, wide);
  }
  function drawRow(row, dx, dy, wide) {
    const y = row.y - dy;
    pen.textBaseline = "middle"; pen.textAlign = "left";
    if (row.head) {
      const each = row.head;
      pen.fillStyle = colours.line; pen.fillRect(0, y + 3, wide, 1);
      pen.font = "600 12px system-ui, sans-serif"; pen.fillStyle = colours.ink;
      pen.fillText(each.kind, 12 , y + HEAD / 2 + 3);
      const after = 20 + pen.measureText(each.kind).width;
      pen.font = "11px ui-monospace, monospace"; pen.fillStyle = colours.dim;
      pen.fillText(`${hex(each.start)}  ${cellsOf((each.end - each.start) * data.page)}  ${each.name}`, after, y + HEAD / 2 + 3);
      return;
    }
    if (row.gap) {
      pen.font = "10px system-ui, sans-serif"; pen.fillStyle = colours.dim; pen.textAlign = "right";
      pen.fillText(`⋯ ${cellsOf(row.gap)} not in memory`, GUTTER - 12 - dx, y + GAP / 2);
      return;
    }
    if (row.row % 8 === 0 && row.row) {
      pen.font = "10px ui-monospace, monospace"; pen.fillStyle = colours.dim; pen.textAlign = "right";
      pen.fillText(hex(row.segment.start + row.row * across * pagesPerCell()), GUTTER - 12 - dx, y + CELL / 2);
    }
    const inSegment = Math.ceil((row.segment.end - row.segment.start) / pagesPerCell()) - row.row * across;
    for (let member = 0; member < members; member++) {
      const x = left(member) - dx;
      if (x > wide || x + column() < 0) continue;
      if (!maps[member].has(row.segment.number)) continue;
      pen.fillStyle = colours.none;
      pen.fillRect(x, y, Math.min(across, inSegment) * CELL - 1, CELL - 1);
      const layer = layers[member];
      eachCell(row, (cell, from, to) => {
        const [state, alone] = stateOf(layer, from, to);
        if (!state) return;
        pen.globalAlpha = only && state !== only && !(only === 1 && alone) ? 0.12 : 1;
        pen.fillStyle = colours.list[state];
        pen.fillRect(x + cell * CELL, y, CELL - 1, CELL - 1);
        if (alone && state !== 1) { // some of its pages are its own
          pen.globalAlpha = only && only !== 1 ? 0.12 : 1;
          pen.fillStyle = colours.alone; pen.fillRect(x + cell * CELL + 1.5, y + 1.5, CELL - 4, CELL - 4);
        }
        pen.globalAlpha = 1;
      });
    }
  }
  function drawTop(dx, wide) {
    pen.fillStyle = colours.paper; pen.fillRect(0, 0, wide, TOP);
    pen.fillStyle = colours.line; pen.fillRect(0, TOP - 1, wide, 1);
    pen.textBaseline = "middle"; pen.textAlign = "left";
    for (let member = 0; member < members; member++) {
      const x = left(member) - dx;
      pen.save(); pen.beginPath(); pen.rect(x, 0, column() - 6, TOP); pen.clip();
      pen.font = "600 12px system-ui, sans-serif"; pen.fillStyle = colours.ink;
      pen.fillText(data.pids[member], x, TOP / 2);
      const after = pen.measureText(data.pids[member]).width + 6;
      pen.font = "12px system-ui, sans-serif"; pen.fillStyle = colours.dim;
      pen.fillText(data.names[member], x + after, TOP / 2);
      pen.restore();
    }
  }
  function drawMark(place, colour, dx, dy) {
    if (!place) return;
    const row = rows[place.row];
    if (!row || !row.segment || row.gap) return;
    for (let member = 0; member < members; member++) {
      if (member !== place.member && !maps[member].has(row.segment.number)) continue;
      pen.strokeStyle = colour; pen.lineWidth = member === place.member ? 2 : 1;
      pen.strokeRect(left(member) + place.cell * CELL - dx - 1, row.y - dy - 1, CELL + 1, CELL + 1);
    }
  }

  // What is under a place.
  const hex = (page) => `0x${(page * data.page).toString(16)}`;
  const text = (element, words) => { element.textContent = words; return element; };
  function bounds(place) { // the used cells in it
    const row = rows[place.row];
    let found = null;
    eachCell(row, (cell, from, to) => { if (cell === place.cell) found = [from, to]; });
    return found;
  }
  function sharersOf(layer, run, member) {
    const state = layer.state[run];
    if (!data.shown || !(state >= 1 && state <= 7)) return "";
    const [count, ...who] = data.sets[layer.sharers[run]] || [0]; // of many only the first are there
    const others = who.filter((each) => each !== member).slice(0, 12).map((each) => data.pids[each]);
    const more = count - 1 - others.length;
    return others.length ? others.join(", ") + (more > 0 ? ` and ${more} more` : "") : "";
  }
  function describe(place) {
    const row = rows[place.row], segment = row.segment, pages = pagesPerCell();
    const first = segment.start + (row.row * across + place.cell) * pages;
    const last = Math.min(first + pages, segment.end);
    const lines = [["b", last - first === 1 ? hex(first) : `${hex(first)} – ${hex(last)}`]];
    lines.push(["div", `${segment.kind}${segment.name ? `: ${segment.name}` : ""} (${hex(segment.start)}–${hex(segment.end)})`]);
    const inside = bounds(place), layer = layers[place.member];
    const [state, alone] = inside ? stateOf(layer, ...inside) : [0, 0];
    const what = maps[place.member].has(segment.number) ? data.words[state] : "does not map it";
    lines.push(["is", `${data.pids[place.member]} ${data.names[place.member]}: ${what}`, state]);
    if (state) {
      let at = inside[0];
      while (at < inside[1] - 1 && layer.state[layer.run[at]] !== state) at++;
      const run = layer.run[at], frame = layer.frame[run] + (layer.frame[run] ? (at - layer.start[run]) * data.step : 0);
      let present = 0;
      for (let each = inside[0]; each < inside[1]; each++) present += layer.present[layer.run[each]];
      if (last - first > 1) lines.push(["div", `${present} of ${last - first} pages in memory, ${alone} of them alone`]);
      if (frame) lines.push(["div", `${last - first > 1 ? "first such frame" : "frame"} 0x${frame.toString(16)}`]);
      const others = sharersOf(layer, run, place.member);
      if (others) lines.push(["div", `also mapped by ${others}`]);
    }
    return lines;
  }
  function showTip(place, x, y) {
    const tip = byId("tip");
    if (!place) { tip.hidden = true; return; }
    tip.replaceChildren(...describe(place).map(([kind, words, state]) => {
      const line = document.createElement(kind === "b" ? "b" : "div");
      if (kind === "is") {
        line.className = "is";
        const mark = document.createElement("i");
        mark.className = state ? data.states[state - 1] : "none";
        mark.style.background = colours.list[state];
        line.append(mark, words);
        return line;
      }
      return text(line, words);
    }));
    tip.hidden = false;
    const size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, x + 16 + size.width > innerWidth ? x - size.width - 12 : x + 16)}px`;
    tip.style.top = `${Math.max(4, y + 16 + size.height > innerHeight ? y - size.height - 12 : y + 16)}px`;
  }
  function placeAt(event) {
    const area = box.getBoundingClientRect();
    const x = event.clientX - area.left + box.scrollLeft, y = event.clientY - area.top + box.scrollTop;
    if (event.clientY - area.top < TOP || x < GUTTER) return null;
    const row = firstVisible(y), member = Math.floor((x - GUTTER) / column());
    const cell = Math.floor((x - left(member)) / CELL);
    return valid({ row, member, cell }) ? { row, member, cell } : null;
  }
  function valid({ row, member, cell }) {
    const each = rows[row];
    if (!each || !each.segment || each.gap || member < 0 || member >= members || cell < 0 || cell >= across) return false;
    return each.segment.start + (each.row * across + cell) * pagesPerCell() < each.segment.end;
  }

  // The cursor of the keyboard.
  const isCells = (row) => rows[row] && rows[row].segment && !rows[row].gap;
  function moveRow(from, direction) {
    for (let row = from + direction; row >= 0 && row < rows.length; row += direction) if (isCells(row)) return row;
    return from;
  }
  function put(place) {
    const row = rows[place.row];
    const inRow = Math.min(across, Math.ceil((row.segment.end - row.segment.start) / pagesPerCell()) - row.row * across);
    place.cell = Math.min(place.cell, inRow - 1);
    cursor = place;
    const x = left(place.member) + place.cell * CELL, wide = box.clientWidth, tall = box.clientHeight;
    if (row.y < box.scrollTop + TOP + HEAD) box.scrollTop = row.y - TOP - HEAD;
    if (row.y + CELL > box.scrollTop + tall - 40) box.scrollTop = row.y + CELL - tall + 40;
    if (x < box.scrollLeft + 8) box.scrollLeft = x - GUTTER;
    if (x + CELL > box.scrollLeft + wide) box.scrollLeft = x + CELL - wide + 20;
    const area = box.getBoundingClientRect();
    draw();
    showTip(place, area.left + x - box.scrollLeft + CELL, area.top + row.y - box.scrollTop + CELL);
  }
  function sideways(place, step) {
    let { row, member, cell } = place;
    cell += step;
    if (cell < 0 && member > 0) { member--; cell = across - 1; }
    else if (!valid({ row, member, cell }) && cell > 0 && member < members - 1) { member++; cell = 0; }
    return valid({ row, member, cell }) || cell > 0 ? { row, member, cell: Math.max(0, cell) } : place;
  }
  const here = () => cursor || { row: moveRow(Math.max(0, firstVisible(box.scrollTop + TOP)) - 1, 1), member: 0, cell: 0 };
  function toSegment(number) {
    const row = rows.findIndex((each) => each.segment && each.segment.number === number && !each.gap);
    if (row >= 0) { put({ row, member: here().member, cell: 0 }); box.scrollTop = rows[row].y - TOP - HEAD; put(cursor); }
  }
  function rescale(change) {
    const before = cursor && rows[cursor.row], wanted = Math.min(12, Math.max(0, zoom + change));
    if (wanted === zoom) return;
    const page = before ? before.segment.start + (before.row * across + cursor.cell) * pagesPerCell() : null;
    const share = box.scrollTop / height;
    zoom = wanted;
    layout();
    hovered = null;
    if (before) {
      const at = Math.floor((page - before.segment.start) / pagesPerCell());
      const row = rows.findIndex((each) => each.segment === before.segment && each.row === Math.floor(at / across));
      if (row >= 0) { put({ row, member: cursor.member, cell: at % across }); return; }
    }
    cursor = null;
    box.scrollTop = share * height;
    draw();
  }
  const keys = {
    ArrowRight: () => put(sideways(here(), 1)),
    ArrowLeft: () => put(sideways(here(), -1)),
    ArrowDown: () => put({ ...here(), row: cursor ? moveRow(here().row, 1) : here().row }),
    ArrowUp: () => put({ ...here(), row: moveRow(here().row, -1) }),
    Home: () => put({ row: moveRow(-1, 1), member: 0, cell: 0 }),
    End: () => put({ row: moveRow(rows.length, -1), member: here().member, cell: 0 }),
    "]": () => toSegment(Math.min(segments.length - 1, rows[here().row].segment.number + 1)),
    "[": () => toSegment(Math.max(0, rows[here().row].segment.number - 1)),
    "+": () => rescale(-1), "=": () => rescale(-1), "-": () => rescale(1),
    Escape: () => { cursor = null; showTip(null); draw(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !keys[event.key] || event.target.matches("select")) return;
    if (!rows.some((row) => row.segment)) return;
    event.preventDefault();
    keys[event.key]();
  });
  box.addEventListener("scroll", draw, { passive: true });
  box.addEventListener("mousemove", (event) => { hovered = placeAt(event); showTip(hovered, event.clientX, event.clientY); draw(); });
  box.addEventListener("mouseleave", () => { hovered = null; showTip(null); draw(); });
  box.addEventListener("click", (event) => { const place = placeAt(event); if (place) { cursor = place; draw(); } });
  byId("in").addEventListener("click", () => rescale(-1));
  byId("out").addEventListener("click", () => rescale(1));
  byId("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    only = only === +button.dataset.state ? 0 : +button.dataset.state;
    for (const each of byId("legend").children) each.setAttribute("aria-pressed", +each.dataset.state === only);
    draw();
  });
  const bySize = [...segments].sort((a, b) => b.to - b.from - (a.to - a.from) || a.number - b.number);
  byId("jump").replaceChildren(...bySize.map((each) => {
    const option = document.createElement("option");
    option.value = each.number;
    return text(option, `${each.kind} ${hex(each.start)} ${cellsOf((each.end - each.start) * data.page)} ${each.name.split("/").pop()}`);
  }));
  byId("jump").prepend(new Option("a mapping, the largest first", "", true, true));
  byId("jump").options[0].disabled = true;
  byId("jump").addEventListener("change", (event) => { toSegment(+event.target.value); box.focus(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });

  function fit() { // as many cells side by side as there is room for all members
    const room = (box.clientWidth - GUTTER) / members - BETWEEN;
    const wanted = Math.max(16, Math.min(128, 2 ** Math.floor(Math.log2(Math.max(1, room / CELL)))));
    if (wanted !== across || !rows.length) { across = wanted; cursor = hovered = null; layout(); }
    draw();
  }
  addEventListener("resize", fit);
  readColours();
  while (zoom < 12 && count / 2 ** zoom / 64 > 3000) zoom++;
  fit();
  window.pageMap = { // for a console, and for tests
    draw, rows: () => rows, cursor: () => cursor,
    find(page) { // the row and the cell of a page
      const segment = segments.find((each) => each.start <= page && page < each.end);
      const cell = Math.floor((page - segment.start) / pagesPerCell()), row = Math.floor(cell / across);
      return [rows.findIndex((each) => each.segment === segment && each.row === row), cell % across];
    },
    place: (row, cell, member) => [left(member) + (cell + 0.5) * CELL, rows[row].y + CELL / 2],
  };
  document.documentElement.dataset.ready = "yes";
})();
