"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const chart = byId("chart"), ROW = 22, LEAST = 1.5; // pixels: a row, and the narrowest box that is drawn
  const causeOn = data.causes.map(() => true);
  let process = -1, query = "", zoomed, current, drawn, boxes = [], rows = [];

  // The tree: a node is a line, or what it wrote (kind "cause": one for each cause and type of object).
  function node([frame, children, itself], parent) {
    const made = { frame, parent, depth: parent ? parent.depth + 1 : 0, leaves: [], children: [] };
    made.children = children.map((child) => node(child, made));
    const kinds = new Map();
    for (const [cause, type, at, pages] of itself) {
      const key = `${cause}/${type}`;
      if (!kinds.has(key)) kinds.set(key, { kind: "cause", cause, type, parent: made, depth: made.depth + 1, counts: [] });
      kinds.get(key).counts.push([at, pages]);
    }
    made.leaves = [...kinds.values()].sort((a, b) => a.cause - b.cause);
    return made;
  }
  const root = node(data.tree, null);

  function weigh(each) { // pages of what is chosen, by cause
    each.mix = data.causes.map(() => 0);
    if (each.kind) {
      const chosen = each.counts.filter(([at]) => process < 0 || at === process);
      each.mix[each.cause] = causeOn[each.cause] ? chosen.reduce((sum, [, pages]) => sum + pages, 0) : 0;
    }
    for (const child of below(each)) {
      weigh(child);
      child.mix.forEach((pages, cause) => { each.mix[cause] += pages; });
    }
    each.pages = each.mix.reduce((sum, pages) => sum + pages, 0);
  }
  const below = (each) => (each.kind ? [] : [...each.children, ...each.leaves]);
  const heavy = (each) => below(each).filter((child) => child.pages).sort((a, b) => (a.kind ? 1 : 0) - (b.kind ? 1 : 0) ||
    (a.kind ? a.cause - b.cause : 0) || b.pages - a.pages);

  // Words.
  const number = (value) => value.toLocaleString("en");
  const pagesOf = (count) => `${number(count)} page${count === 1 ? "" : "s"}`;
  const share = (part) => (root.pages ? `${(100 * part / root.pages).toFixed(1)} %` : "0 %");
  function bytes(pages) {
    let value = pages * data.page / 1024, unit = 0;
    for (; value >= 1024 && unit < 3; unit++) value /= 1024;
    return `${value >= 100 ? Math.round(value) : Number(value.toPrecision(3))} ${["KiB", "MiB", "GiB", "TiB"][unit]}`;
  }
  function words(each) { // what it is, where it is, all of it that a search looks at
    if (each.kind) {
      const type = data.types[each.type];
      return [data.causes[each.cause], type, `${data.causes[each.cause]} ${type}`];
    }
    if (each.frame < 0) return ["all", "", ""];
    const [name, place, file] = data.frames[each.frame];
    return [name, place, `${name} ${place} ${file}`];
  }
  const matches = (each) => query !== "" && words(each)[2].toLowerCase().includes(query);

  // Drawing.
  function draw() {
    const width = drawn = chart.clientWidth, focused = chart.contains(document.activeElement);
    boxes = [], rows = [];
    const found = [];
    const place = (each, left, right, above, under) => {
      found.push(box(each, left, right, above, under));
      if (above) return;
      let at = left, thin = null; // what is too narrow by itself is drawn together, without words
      const close = () => { if (thin && at - thin.left >= LEAST) found.push(filler(thin, at)); thin = null; };
      for (const child of heavy(each)) {
        const end = at + (right - left) * child.pages / each.pages;
        if (thin && thin.cause !== child.cause) close();
        if (end - at < LEAST) {
          thin ||= { left: at, cause: child.cause, depth: child.depth, count: 0 };
          thin.count++;
        } else {
          close();
          place(child, at, end, false, under || matches(each));
        }
        at = end;
      }
      close();
    };
    if (!document.body.classList.contains("empty")) chart.dataset.empty = "no page of what is chosen";
    if (root.pages) {
      for (let each = zoomed.parent; each; each = each.parent) place(each, 0, width, true, false);
      place(zoomed, 0, width, false, false);
    }
    rows.forEach((row) => row && row.sort((a, b) => a.left - b.left));
    chart.style.height = `${rows.length * ROW}px`;
    chart.classList.toggle("searching", query !== "");
    chart.replaceChildren(...found);
    byId("out").disabled = zoomed === root;
    choose(boxes.find((each) => each.node === current) || boxes.find((each) => each.node === zoomed), focused);
  }

  function filler({ left, cause, depth, count }, right) {
    const element = document.createElement("div");
    element.className = `box rest${cause === undefined ? "" : " cause"}`;
    element.style.cssText = `left:${left}px;top:${depth * ROW}px;width:${Math.max(right - left - 1, 1)}px`;
    if (cause !== undefined) element.style.setProperty("--c", `var(--c${cause})`);
    element.title = `${number(count)} more, each too narrow to be drawn: zoom in`;
    return element;
  }

  function box(each, left, right, above, under) {
    const element = document.createElement("div"), [name, where] = words(each);
    element.className = `box${each.kind ? " cause" : ""}${above ? " above" : ""}${matches(each) ? " match" : under ? " under" : ""}` +
      `${right - left < 14 ? " thin" : ""}`;
    element.style.cssText = `left:${left}px;top:${each.depth * ROW}px;width:${Math.max(right - left - 1, 1)}px`;
    element.style.setProperty(...(each.kind ? ["--c", `var(--c${each.cause})`] : ["--mix", mixture(each)]));
    element.setAttribute("role", "treeitem");
    element.setAttribute("aria-label", `${name} ${where}: ${pagesOf(each.pages)}, ${share(each.pages)}`);
    element.tabIndex = -1;
    if (right - left >= 24) {
      element.textContent = each.kind && where ? where : name; // the colour says the cause
      element.append(Object.assign(document.createElement("small"), { textContent: each.kind && where ? name : where }));
    }
    const made = { node: each, left, element };
    element.addEventListener("click", () => { current = each; zoom(each); });
    element.addEventListener("mouseenter", () => tell(each));
    element.addEventListener("focus", () => { choose(made, false); tell(each); });
    boxes.push(made);
    (rows[each.depth] ||= []).push(made);
    return element;
  }

  function mixture(each) { // a stripe of the causes below
    let at = 0;
    const parts = each.mix.map((pages, cause) => {
      const from = at;
      at += 100 * pages / each.pages;
      return pages ? `var(--c${cause}) ${from}% ${at}%` : "";
    });
    return `linear-gradient(90deg, ${parts.filter(Boolean).join(", ")})`;
  }

  function tell(each) {
    const [name, where] = words(each), about = byId("about");
    const first = document.createElement("p"), second = document.createElement("p");
    first.append(Object.assign(document.createElement("b"), { textContent: each.kind && where ? `${name} of ${where}` : name }));
    const file = each.kind ? words(each.parent)[1] : where;
    first.append(" ", Object.assign(document.createElement("code"), { textContent: file }));
    second.append(`${pagesOf(each.pages)}, ${bytes(each.pages)}, ${share(each.pages)}`);
    if (!each.kind) each.mix.forEach((pages, cause) => {
      if (!pages) return;
      const one = document.createElement("span");
      one.style.setProperty("--c", `var(--c${cause})`);
      one.append(document.createElement("i"), `${data.causes[cause]} ${number(pages)}`);
      second.append(one);
    });
    about.replaceChildren(first, second);
  }

  function choose(made, focus) { // the one box that the keys move from
    if (!made) return;
    for (const each of boxes) each.element.tabIndex = each === made ? 0 : -1;
    current = made.node;
    if (focus) {
      made.element.focus({ preventScroll: true });
      made.element.scrollIntoView({ block: "nearest" });
    }
  }

  function zoom(each, focus = false) {
    zoomed = each.kind ? each.parent : each;
    draw();
    const made = boxes.find((one) => one.node === current);
    if (focus) choose(made, true);
    if (made) tell(made.node);
  }

  // Search: pages below what matches, each counted once.
  function search() {
    query = byId("search").value.trim().toLowerCase();
    let pages = 0, count = 0;
    const look = (each, counted) => {
      if (!each.pages) return;
      const hit = matches(each);
      count += hit;
      if (hit && !counted) pages += each.pages;
      below(each).forEach((child) => look(child, counted || hit));
    };
    if (query) look(root, false);
    byId("found").textContent = query ? (count ? `${pagesOf(pages)}, ${share(pages)}` : "nothing") : "";
    draw();
  }
  function next(by) { // from match to match, as they stand
    const found = boxes.filter((each) => matches(each.node)).sort((a, b) => a.node.depth - b.node.depth || a.left - b.left);
    if (!found.length) return;
    const at = found.findIndex((each) => each.node === current);
    const to = found[(at + by + found.length) % found.length];
    choose(to, false);
    tell(to.node);
    to.element.scrollIntoView({ block: "nearest" });
  }

  function refresh() {
    weigh(root);
    for (; zoomed.parent && !zoomed.pages; zoomed = zoomed.parent);
    legend();
    search();
    tell(zoomed);
  }

  function legend() {
    const all = data.causes.map(() => 0);
    const sum = (each) => {
      if (each.kind) each.counts.forEach(([at, pages]) => { if (process < 0 || at === process) all[each.cause] += pages; });
      below(each).forEach(sum);
    };
    sum(root);
    [...byId("legend").children].forEach((button, cause) => {
      button.hidden = !all[cause];
      button.setAttribute("aria-pressed", causeOn[cause]);
      button.querySelector("small").textContent = number(all[cause]);
    });
  }

  function controls() {
    data.causes.forEach((cause, index) => {
      const button = document.createElement("button");
      button.style.setProperty("--c", `var(--c${index})`);
      button.title = "show or leave out";
      button.append(document.createElement("i"), cause, document.createElement("small"));
      button.addEventListener("click", () => { causeOn[index] = !causeOn[index]; refresh(); });
      byId("legend").append(button);
    });
    const select = byId("process");
    select.append(new Option("all processes", -1));
    data.processes.forEach(([pid, generation], index) => select.append(new Option(`process ${pid} (generation ${generation})`, index)));
    select.hidden = data.processes.length < 2;
    select.addEventListener("change", () => { process = Number(select.value); refresh(); });
    byId("search").addEventListener("input", search);
    byId("out").addEventListener("click", () => zoom(root));
  }

  const beside = (by) => {
    const made = boxes.find((each) => each.node === current);
    const row = rows[made.node.depth];
    return row[row.indexOf(made) + by];
  };
  const under = () => boxes.filter((each) => each.node.parent === current).sort((a, b) => b.node.pages - a.node.pages)[0];
  const keys = {
    ArrowDown: () => choose(under(), true),
    ArrowUp: () => choose(boxes.find((each) => each.node === current.parent), true),
    ArrowLeft: () => choose(beside(-1), true),
    ArrowRight: () => choose(beside(1), true),
    Home: () => choose(boxes.find((each) => each.node === root), true),
    Enter: () => zoom(current, true),
    " ": () => zoom(current, true),
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const input = event.target === byId("search");
    if (event.key === "Escape") {
      if (byId("search").value) { byId("search").value = ""; search(); }
      else zoom(root, !input);
    } else if (event.key === "/" && !input) {
      byId("search").focus();
    } else if (input && event.key === "Enter") {
      next(event.shiftKey ? -1 : 1);
    } else if (!input && keys[event.key] && !event.target.matches("button, select") && boxes.length) {
      keys[event.key]();
    } else return;
    event.preventDefault();
  });

  zoomed = current = root;
  controls();
  refresh();
  new ResizeObserver(() => { if (chart.clientWidth !== drawn) draw(); }).observe(chart);
})();
