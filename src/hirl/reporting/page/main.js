// The page's state, its address, and what changes it.

const byId = (id) => document.getElementById(id);
const state = {
  run: runs[0],
  stop: runs[0].last,
  side: "run",
  focus: { run: null, baseline: null },
  image: null,
  search: null,
  compare: false,
  marks: false,
};

// --- the address: #run=...&epoch=...&cluster=2-7&picture=512&compare=1 ---------------------------------------------

function address() {
  const words = new URLSearchParams({ run: state.run.name });
  if (state.stop !== state.run.last) words.set("tree", state.run.stops[state.stop].epoch ?? "features");
  for (const [side, word] of [
    ["run", "cluster"],
    ["baseline", "baseline"],
  ]) {
    const node = state.focus[side];
    if (node && node.parent) words.set(word, `${node.level}-${node.id}`);
  }
  if (state.side === "baseline") words.set("side", "baseline");
  if (state.image !== null) words.set("picture", indexOf[state.image]);
  if (state.search) words.set("class", state.search.key);
  if (state.compare) words.set("compare", "1");
  if (state.marks) words.set("marks", "1");
  return `#${words}`;
}

function goTo(hash) {
  const words = new URLSearchParams(hash.slice(1));
  state.run = runs.find((run) => run.name === words.get("run")) ?? runs[0];
  const stop = state.run.stops.findIndex((each) => String(each.epoch ?? "features") === words.get("tree"));
  state.stop = stop < 0 ? state.run.last : stop;
  state.compare = words.has("compare") && state.run.baseline !== null;
  state.side = state.compare && words.get("side") === "baseline" ? "baseline" : "run";
  for (const [side, word] of [
    ["run", "cluster"],
    ["baseline", "baseline"],
  ]) {
    const tree = treeOf(side),
      [level, id] = (words.get(word) ?? "").split("-").map(Number);
    state.focus[side] = tree && (tree.node(level, id) ?? tree.root);
  }
  const image = words.has("picture") ? imageWith(Number(words.get("picture"))) : -1;
  state.image = image < 0 ? null : image;
  state.search = words.has("class") ? searchFor(words.get("class")) : null;
  state.marks = words.has("marks");
}

function imageWith(index) {
  if (!sampled) return index < count ? index : -1;
  return indexOf.indexOf(index);
}

function treeOf(side) {
  return side === "baseline" ? state.run.baseline : state.run.tree(state.stop);
}

// --- changes -------------------------------------------------------------------------------------------------------

function change(changes, replace = false) {
  Object.assign(state, changes);
  const hash = address();
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
  render();
}

const actions = {
  focus(side, node) {
    const compare = state.compare || side === "baseline";
    change({ side, compare, image: null, focus: { ...state.focus, [side]: node } });
    bringIntoView(byId("maps"));
    say(headline(treeOf(side), node));
  },
  out(side) {
    const node = state.focus[side];
    if (node.parent) actions.focus(side, node.parent);
  },
  open(image) {
    const focus = { ...state.focus };
    for (const side of ["run", "baseline"]) {
      const node = focus[side],
        tree = treeOf(side);
      if (image !== null && node?.parent && tree.clusterOf(image, node.level) !== node) focus[side] = tree.root;
    }
    change({ image, focus });
    if (image !== null) bringIntoView(byId("panel"));
    if (image !== null) say(`${nameOf(image)} ${classOf(image)}`);
  },
  search(key) {
    const search = key === null ? null : searchFor(key);
    change({ search, image: null, focus: search ? roots() : state.focus });
  },
  hover(side, node) {
    if (!state.compare || state.search) return;
    const other = maps[side === "run" ? "baseline" : "run"];
    const mask = node ? maskOf(treeOf(side).shownImages(node)) : masks()[other.side];
    if (other.highlight === mask) return;
    other.highlight = mask;
    if (!other.moving) other.paint();
  },
  say,
};

// On a phone, panel and maps are below each other.
function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (matchMedia("(max-width: 900px)").matches && (top < 0 || top > 0.6 * innerHeight)) {
    element.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
  }
}

function roots() {
  return { run: treeOf("run").root, baseline: treeOf("baseline")?.root ?? null };
}

// Another tree of the same pictures: stay at the cluster that holds most of those now in focus.
function follow(run, stop) {
  const before = treeOf("run"),
    node = state.focus.run,
    tree = run.tree(stop);
  const level = Math.min(node.level, tree.levels);
  const focus =
    node === before.root || level === tree.levels ? tree.root : tree.bestMatch(before.shownImages(node), level);
  const other = run === state.run ? state.focus.baseline : (run.baseline?.root ?? null);
  const compare = state.compare && run.baseline !== null;
  return { run, stop, compare, side: compare ? state.side : "run", focus: { run: focus, baseline: other } };
}

function slide(stop, replace = true) {
  change(follow(state.run, Math.max(0, Math.min(state.run.stops.length - 1, stop))), replace);
}

// Compare like with like: the run's features, clustered as the baseline's are.
function compare(on) {
  const stops = state.run.stops,
    features = stops.findIndex((stop) => stop.epoch === null);
  const stop = on && features >= 0 ? features : !on && state.stop === features ? state.run.last : state.stop;
  change({ ...follow(state.run, stop), compare: on && state.run.baseline !== null, side: "run" });
}

// --- search --------------------------------------------------------------------------------------------------------

function searchFor(key) {
  const [level, id] = key.split("-").map(Number);
  if (!classes || !classes.names[level]?.[id]) return null;
  const images = [];
  for (let image = 0; image < count; image++) if (labels[level][image] === id) images.push(image);
  return images.length ? { key, level, images, name: classes.names[level][id] } : null;
}

// The classes, and the pictures, that a word or an index finds; at most a dozen.
function suggestions(text) {
  const word = text.trim().toLowerCase().replace(/^#/, "");
  if (word === "") return [];
  const found = [];
  if (classes) {
    classes.names.forEach((names, level) =>
      names.forEach((name, id) => {
        const at = name.toLowerCase().indexOf(word);
        if (at >= 0)
          found.push({
            rank: [at > 0, -level, name.length],
            key: `${level}-${id}`,
            label: name,
            detail: classes.levels[level],
          });
      }),
    );
    const before = (one, other) => one.rank.findIndex((value, at) => value !== other.rank[at]);
    found.sort((one, other) => {
      const at = before(one, other);
      return at < 0 ? 0 : one.rank[at] - other.rank[at];
    });
  }
  const images = /^\d+$/.test(word) ? [imageWith(Number(word))].filter((image) => image >= 0) : [];
  if (facts.names) {
    for (let image = 0; image < count && images.length < 8; image++)
      if (facts.names[image].toLowerCase().includes(word)) images.push(image);
  }
  const hits = [...new Set(images)].map((image) => ({ image, label: nameOf(image), detail: classOf(image) }));
  return [...(/^\d+$/.test(word) ? hits : []), ...found, ...(/^\d+$/.test(word) ? [] : hits)].slice(0, 12);
}

function listenToSearch() {
  const input = byId("search"),
    list = byId("results");
  let chosen = 0;
  const draw = () => {
    const found = suggestions(input.value);
    chosen = Math.min(chosen, Math.max(0, found.length - 1));
    const none = input.value.trim() ? h("li", { class: "none" }, "nothing found") : null;
    list.replaceChildren(
      ...(found.length
        ? found.map((each, at) =>
            h(
              "li",
              {
                role: "option",
                id: `result${at}`,
                "aria-selected": String(at === chosen),
                onpointerdown: (event) => (event.preventDefault(), pick(each)),
              },
              each.image === undefined ? h("span", { class: "dot" }) : picture(each.image, 24),
              h("b", {}, each.label),
              h("small", {}, each.detail),
            ),
          )
        : [none].filter(Boolean)),
    );
    list.hidden = !input.value.trim();
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (found.length) input.setAttribute("aria-activedescendant", `result${chosen}`);
    else input.removeAttribute("aria-activedescendant");
    return found;
  };
  const pick = (each) => {
    if (each.image !== undefined) actions.open(each.image);
    else actions.search(each.key);
    input.value = "";
    draw();
    input.blur();
  };
  input.addEventListener("input", () => ((chosen = 0), draw()));
  input.addEventListener("blur", () => (list.hidden = true));
  input.addEventListener("focus", draw);
  input.addEventListener("keydown", (event) => {
    const found = suggestions(input.value),
      step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) {
      chosen = (chosen + step + found.length) % found.length;
      draw();
    } else if (event.key === "Enter" && found[chosen]) pick(found[chosen]);
    else if (event.key === "Escape") {
      input.value = "";
      input.blur();
    } else return;
    event.stopPropagation();
    event.preventDefault();
  });
}

// --- drawing -------------------------------------------------------------------------------------------------------

function maskOf(images) {
  const mask = new Uint8Array(count);
  for (const image of images) mask[image] = 1;
  return mask;
}

// The pictures that each map shows at full strength; null for all.
function masks() {
  if (state.search) {
    const mask = maskOf(state.search.images);
    return { run: mask, baseline: mask };
  }
  const node = state.focus[state.side],
    own = treeOf(state.side);
  const mask = state.compare && node !== own.root ? maskOf(own.shownImages(node)) : null;
  return { run: state.side === "baseline" ? mask : null, baseline: state.side === "run" ? mask : null };
}

function render() {
  const shown = masks(),
    sides = state.compare ? ["run", "baseline"] : ["run"];
  document.body.classList.toggle("comparing", state.compare);
  byId("baseline").hidden = !state.compare;
  for (const side of sides) {
    const tree = treeOf(side),
      focus = state.focus[side];
    crumbs(side, tree, focus);
    maps[side].show({
      tree,
      focus,
      highlight: shown[side],
      marks: state.marks,
      picked: state.image,
      near: state.image === null ? [] : state.run.nearest(state.image, side === "baseline"),
    });
  }
  renderControls();
  const { side, image, search, compare: comparing, run, stop } = state,
    tree = treeOf(side);
  const other = treeOf(side === "run" ? "baseline" : "run");
  panel.show({
    side,
    image,
    search,
    comparing,
    run,
    stop,
    tree,
    other,
    baseline: run.baseline,
    node: state.focus[side],
  });
}

function crumbs(side, tree, focus) {
  const steps = [tree.root, ...tree.path(focus)];
  const label = side === "baseline" ? "Baseline" : state.compare ? "HIRL" : null;
  const items = steps.map((node, at) =>
    h(
      "li",
      {},
      h(
        "button",
        { "aria-current": node === focus ? "true" : null, onclick: () => actions.focus(side, node) },
        at === 0 ? "All" : headline(tree, node),
      ),
    ),
  );
  byId(side)
    .querySelector(".crumbs")
    .replaceChildren(...(label ? [h("b", { class: "side" }, label)] : []), h("ol", {}, items));
}

function renderControls() {
  const { run, stop } = state,
    slider = byId("slider");
  byId("runs").value = run.name;
  slider.max = run.stops.length - 1;
  slider.value = stop;
  slider.setAttribute("aria-valuetext", run.stops[stop].label);
  byId("stop").textContent = run.stops[stop].label;
  byId("time").hidden = run.stops.length < 2;
  byId("ticks").replaceChildren(
    ...run.stops.map((each, at) =>
      h("span", { class: at === stop ? "here" : "" }, each.epoch === null ? "features" : String(each.epoch)),
    ),
  );
  byId("compare").hidden = run.baseline === null;
  byId("compare").setAttribute("aria-pressed", String(state.compare));
  byId("marks").hidden = !classes;
  byId("marks").setAttribute("aria-pressed", String(state.marks));
}

function say(text) {
  byId("said").textContent = text;
}

let playing = null;
function play() {
  if (playing) return stopPlaying();
  if (state.stop >= state.run.last) slide(0);
  byId("play").setAttribute("aria-pressed", "true");
  playing = setInterval(() => {
    if (state.stop >= state.run.last) return stopPlaying();
    slide(state.stop + 1);
  }, 1100);
}

function stopPlaying() {
  clearInterval(playing);
  playing = null;
  byId("play").setAttribute("aria-pressed", "false");
}

function turnTheme() {
  const dark =
    document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
  render();
}

function leave() {
  if (state.image !== null) actions.open(null);
  else if (state.search) actions.search(null);
  else actions.out(state.side);
}

const KEYS = {
  "/": () => byId("search").focus(),
  "[": () => slide(state.stop - 1),
  "]": () => slide(state.stop + 1),
  b: () => state.run.baseline && compare(!state.compare),
  m: () => classes && change({ marks: !state.marks }, true),
  "?": () => byId("help").showModal(),
  Escape: leave,
  Backspace: leave,
};

const maps = Object.fromEntries(["run", "baseline"].map((side) => [side, new TreeMap(side, byId(side), actions)]));
const panel = new Panel(byId("panel"), actions);

byId("runs").append(...runs.map((run) => h("option", { value: run.name }, run.title)));
byId("runs").hidden = runs.length < 2;
byId("only").hidden = runs.length > 1 || runs[0].title === facts.title;
byId("only").textContent = runs[0].title;
byId("runs").addEventListener("change", (event) => {
  const run = runs.find((each) => each.name === event.target.value);
  const features = run.stops.findIndex((stop) => stop.epoch === null);
  change(follow(run, state.compare && features >= 0 ? features : run.last));
});
byId("slider").addEventListener("input", (event) => (stopPlaying(), slide(Number(event.target.value))));
byId("play").addEventListener("click", play);
byId("compare").addEventListener("click", () => compare(!state.compare));
byId("marks").addEventListener("click", () => change({ marks: !state.marks }, true));
byId("theme").addEventListener("click", turnTheme);
byId("ask").addEventListener("click", () => byId("help").showModal());
listenToSearch();
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select, dialog *, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("popstate", () => (goTo(location.hash), render()));
new ResizeObserver(() => Object.values(maps).forEach((map) => map.resize())).observe(byId("maps"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
goTo(location.hash);
render();
document.body.classList.remove("loading");
