// What the panel says about the chosen cluster, picture or search, as elements of the document.

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const MIXED = 0.5; // below this part, a cluster's most common class does not name it alone
const COMPARED =
  " This tree clusters what the training embeds. To compare, the features of HIRL and of the baseline are clustered in the same way.";
const THUMB = 52; // pixels

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

// Move heights apart, so that labels do not overlap.
function spaced(heights, least) {
  const order = heights.map((_, at) => at).sort((one, other) => heights[one] - heights[other]),
    moved = [...heights];
  order.forEach((at, rank) => rank && (moved[at] = Math.max(moved[at], moved[order[rank - 1]] + least)));
  return moved;
}

function levelName(level, levels) {
  if (levels === 1) return "one level";
  return level === levels - 1 ? "coarsest" : level === 0 ? "finest" : `level ${level}`;
}

function percent(part) {
  return `${Math.round(100 * part)} %`;
}

function number(value) {
  return value.toLocaleString("en-US");
}

function pictures(n) {
  return n === 1 ? "1 picture" : `${number(n)} pictures`;
}

// The name of a cluster: its most common class, or its number.
function titleOf(tree, node) {
  if (node === tree.root) return { name: "All pictures", part: null };
  if (!classes) return { name: `Cluster ${node.id + 1}`, part: null };
  return tree.majority(node, classLevelOf(node.level));
}

// The picture that stands for a cluster: its most central one, of its most common class where there are classes.
function faceOf(tree, node, central) {
  if (!classes) return central[0];
  const { name } = titleOf(tree, node),
    isTypical = (image) => classOf(image, classLevelOf(node.level)) === name;
  return central.find(isTypical) ?? tree.shownImages(node).find(isTypical) ?? central[0];
}

// As in "perch 62 %".
function headline(tree, node) {
  const { name, part } = titleOf(tree, node);
  return part === null ? name : `${name} ${percent(part)}`;
}

function picture(image, side) {
  const { tile, columns } = facts.images,
    canvas = h("canvas", { "aria-hidden": "true" });
  const scale = Math.min(devicePixelRatio || 1, 2),
    context = canvas.getContext("2d");
  canvas.width = canvas.height = Math.round(side * scale);
  canvas.style.width = canvas.style.height = `${side}px`;
  context.imageSmoothingQuality = "high";
  const [left, top] = [(image % columns) * tile, Math.floor(image / columns) * tile];
  context.drawImage(sprite, left, top, tile, tile, 0, 0, canvas.width, canvas.height);
  return canvas;
}

class Panel {
  constructor(element, actions) {
    this.element = element;
    this.actions = actions;
  }

  show(view) {
    const focused = this.element.contains(document.activeElement);
    this.view = view;
    const parts = view.image !== null ? this.#image() : view.search ? this.#search() : this.#cluster();
    this.element.replaceChildren(...parts.filter(Boolean));
    if (focused) this.element.querySelector("h2").focus({ preventScroll: true }); // the chosen button is gone
  }

  #cluster() {
    const { tree, node } = this.view;
    if (node === tree.root) return [...this.#overview(), this.#children("Coarsest clusters")];
    return [
      h(
        "p",
        { class: "kind" },
        `Cluster ${node.id + 1} of ${tree.nodes[node.level].length}, ${levelName(node.level, tree.levels)}`,
        this.#sideNote(),
      ),
      h("h2", { tabindex: -1 }, this.#clusterTitle(node)),
      h("p", { class: "size" }, `${pictures(node.size)}, ${percent(node.size / tree.root.size)} of all`),
      this.#bars(node),
      this.#picks(node),
      this.#elsewhere(node),
      node.children.length ? this.#children("Clusters in it") : null,
    ];
  }

  #sideNote() {
    return this.view.comparing ? (this.view.side === "baseline" ? ", baseline" : ", HIRL") : "";
  }

  #clusterTitle(node) {
    const { name, part } = titleOf(this.view.tree, node);
    return part !== null && part < MIXED ? `mixed, ${name} most often` : name;
  }

  #overview() {
    const { tree, baseline, run, stop } = this.view;
    const shown = sampled ? ` A random ${number(count)} are shown; sizes and purity count all.` : "";
    const own = run.packed.own ? run.tree(run.stops.length - 1) : null;
    const columns = classes
      ? [
          ["This tree", tree],
          ["Features", own],
          ["Baseline", baseline],
        ].filter(([, of]) => of)
      : [];
    const rows = tree.nodes.map((nodes, level) =>
      h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          levelName(level, tree.levels),
          classes ? h("small", {}, classes.levels[classLevelOf(level)]) : null,
        ),
        h("td", {}, number(nodes.filter((node) => node.size > 0).length)),
        columns.map(([, of]) => h("td", {}, String(Math.round(100 * of.purity(level, classLevelOf(level)))))),
      ),
    );
    const heads = ["Level", "Clusters", ...columns.map(([head]) => head)];
    return [
      h("p", { class: "kind" }, run.stops.length > 1 ? `${run.title}, ${run.stops[stop].label}` : run.title),
      h(
        "h2",
        { tabindex: -1 },
        `${pictures(facts.images.total)}, ${tree.levels === 1 ? "one level" : `${tree.levels} levels`}`,
      ),
      h(
        "p",
        { class: "lead" },
        `Every rectangle is a cluster, filled with its pictures. Click one to walk in.${shown}`,
      ),
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((head) => h("th", { scope: "col" }, head)),
          ),
        ),
        h("tbody", {}, rows.reverse()),
      ),
      classes
        ? h(
            "p",
            { class: "note" },
            `In per cent: purity, the part of the pictures whose class is the most common one of their cluster.${own && baseline ? COMPARED : ""}`,
          )
        : null,
      this.#forming(),
    ];
  }

  // Purity of every snapshot, as small curves.
  #forming() {
    const { run, stop } = this.view;
    if (!classes || run.last < 1) return null;
    const trees = Array.from({ length: run.last + 1 }, (_, at) => run.tree(at)),
      levels = trees[0].levels;
    const values = Array.from({ length: levels }, (_, level) =>
      trees.map((tree) => tree.purity(level, classLevelOf(level))),
    );
    const [right, bottom, most] = [245, 96, Math.max(...values.flat())];
    const x = (at) => 5 + (at / run.last) * (right - 5),
      y = (part) => bottom - (part / most) * (bottom - 12);
    const ends = spaced(
      values.map((line) => y(line.at(-1))),
      13,
    );
    const lines = values.map((line, level) =>
      svg(
        "g",
        { class: `level${Math.min(level, 3)}` },
        svg("path", { d: `M${line.map((value, at) => `${x(at)},${y(value)}`).join("L")}` }),
        line.map((value, at) => svg("circle", { cx: x(at), cy: y(value), r: at === stop ? 4.5 : 2 })),
        svg("text", { x: right + 9, y: ends[level] + 4 }, `${levelName(level, levels)} ${percent(line.at(-1))}`),
      ),
    );
    const label = `Purity from ${run.stops[0].epoch} to ${run.stops[run.last].epoch} epochs`;
    return h(
      "figure",
      {},
      h("figcaption", {}, label),
      svg(
        "svg",
        { viewBox: "0 0 348 102", role: "img", "aria-label": label },
        svg("line", { x1: 5, x2: right, y1: bottom, y2: bottom }),
        lines,
      ),
    );
  }

  // A bar per class level: the most common class of the cluster.
  #bars(node) {
    if (!classes) return null;
    const bars = classes.levels.map((level, at) => {
      const { name, part } = this.view.tree.majority(node, at);
      return h(
        "div",
        { class: "bar", "data-level": level },
        h("span", {}, level),
        h("div", {}, h("b", {}, name), h("span", { class: "track" }, h("i", { style: `width:${100 * part}%` }))),
        h("b", {}, percent(part)),
      );
    });
    return h("div", { class: "bars", role: "group", "aria-label": "Purity by class level" }, bars.reverse());
  }

  #picks(node) {
    const { tree } = this.view;
    if (!tree.hasPicks) {
      const first = Array.from(tree.shownImages(node).slice(0, 12));
      const missing = "First pictures in the data's order. Central and doubtful ones need the run's features.";
      return h("section", {}, h("h3", {}, "Pictures"), h("p", { class: "note" }, missing), this.#thumbs(first, node));
    }
    const central = tree.picks(node, "central");
    const doubtful = tree.picks(node, "doubtful").filter((image) => node.size > 24 || !central.includes(image));
    return h(
      "div",
      {},
      h("section", { class: "central" }, h("h3", {}, "Most central"), this.#thumbs(central, node)),
      doubtful.length
        ? h(
            "section",
            { class: "doubtful" },
            h("h3", { title: "Their features are almost as near to another cluster of this level" }, "Most doubtful"),
            this.#thumbs(doubtful, node),
          )
        : null,
    );
  }

  // Pictures as buttons; a corner marks those of another class than most of the cluster.
  #thumbs(images, node, side = THUMB) {
    const level = classes && node ? classLevelOf(node.level) : 0,
      common = classes && node ? this.view.tree.majority(node, level).id : null;
    return h(
      "ul",
      { class: "thumbs" },
      images.map((image) => {
        const strange = common !== null && labels[level][image] !== common;
        const label = `${nameOf(image)}${classes ? `, ${classOf(image)}` : ""}${strange ? ", another class" : ""}`;
        return h(
          "li",
          {},
          h(
            "button",
            {
              class: strange ? "thumb strange" : "thumb",
              "data-image": image,
              title: label,
              "aria-label": label,
              onclick: () => this.actions.open(image),
            },
            picture(image, side),
          ),
        );
      }),
    );
  }

  // Where the other tree puts the pictures of this cluster.
  #elsewhere(node) {
    const { other, side } = this.view;
    if (!other || node.start === node.end) return null;
    const images = this.view.tree.shownImages(node),
      found = other.spread(images, Math.min(node.level, other.levels - 1));
    const where = side === "baseline" ? "HIRL" : "the baseline";
    const sentence =
      found.length === 1
        ? `In ${where}, one cluster of this level holds them all.`
        : `In ${where}, ${found.length} clusters of this level share them; the largest part is ${percent(found[0].images / images.length)}.`;
    return h(
      "section",
      { class: "elsewhere" },
      h("h3", {}, `In ${where}`),
      h("p", { class: "lead" }, sentence),
      this.#rows(
        other,
        found.slice(0, 3).map((each) => each.node),
        (at) => `${percent(found[at].images / images.length)} of them`,
        (target) => this.actions.focus(side === "baseline" ? "run" : "baseline", target),
      ),
    );
  }

  #children(title) {
    const { tree, node, side } = this.view;
    const sorted = [...node.children].sort((one, other) => other.size - one.size);
    return h(
      "section",
      { class: "children" },
      h("h3", {}, title),
      this.#rows(
        tree,
        sorted,
        (at) => pictures(sorted[at].size),
        (target) => this.actions.focus(side, target),
      ),
    );
  }

  #rows(tree, nodes, detail, choose) {
    return h(
      "ul",
      { class: "rows" },
      nodes.map((node, at) => {
        const { name, part } = titleOf(tree, node),
          central = tree.hasPicks ? tree.picks(node, "central") : Array.from(tree.shownImages(node).subarray(0, 4)),
          more = part === null ? central.slice(1, 4) : []; // pictures in place of a purity
        return h(
          "li",
          {},
          h(
            "button",
            { "data-cluster": `${node.level}-${node.id}`, onclick: () => choose(node) },
            central.length ? picture(faceOf(tree, node, central), 34) : h("span", { class: "blank" }),
            h("span", { class: "what" }, h("b", {}, name), h("small", {}, detail(at))),
            more.length
              ? h(
                  "span",
                  { class: "more" },
                  more.map((image) => picture(image, 34)),
                )
              : null,
            part === null ? null : h("span", { class: "track" }, h("i", { style: `width:${100 * part}%` })),
            part === null ? null : h("small", { class: "part" }, percent(part)),
          ),
        );
      }),
    );
  }

  #image() {
    const { image, run, tree, baseline, side } = this.view,
      path = tree.pathOf(image);
    return [
      h(
        "p",
        { class: "kind" },
        `Picture ${indexOf[image]} of ${number(facts.images.total)}`,
        h(
          "button",
          {
            class: "close",
            onclick: () => this.actions.open(null),
            "aria-label": "Close the picture",
            title: "Close (Esc)",
          },
          "×",
        ),
      ),
      h("h2", { tabindex: -1 }, classes ? classOf(image) : nameOf(image)),
      classes && facts.names ? h("p", { class: "size" }, nameOf(image)) : null,
      h("div", { class: "large" }, picture(image, 240)),
      classes
        ? h(
            "p",
            { class: "truth" },
            classes.levels.map((level, at) => h("span", {}, h("small", {}, level), ` ${classOf(image, at)}`)).reverse(),
          )
        : null,
      h(
        "section",
        { class: "path" },
        h("h3", {}, `Its path${this.#sideNote()}`),
        this.#rows(
          tree,
          path,
          (at) => pictures(path[at].size),
          (node) => this.actions.focus(side, node),
        ),
      ),
      this.#nearest(image, run.nearest(image, false), "Nearest pictures", "near"),
      baseline ? this.#nearest(image, run.nearest(image, true), "Nearest in the baseline", "near-baseline") : null,
      run.neighbors === null ? h("p", { class: "note" }, "Nearest pictures need the run's features.") : null,
    ];
  }

  #nearest(image, found, title, name) {
    if (found.length === 0) return null;
    const same = classes ? found.filter((each) => labels[0][each] === labels[0][image]).length : 0;
    const count = classes ? h("small", {}, ` ${same} of ${found.length} of its class`) : null;
    return h(
      "section",
      { class: name },
      h("h3", {}, title, count),
      h(
        "ul",
        { class: "thumbs" },
        found.map((each) => {
          const strange = classes && labels[0][each] !== labels[0][image],
            label = `${nameOf(each)}${classes ? `, ${classOf(each)}` : ""}`;
          return h(
            "li",
            {},
            h(
              "button",
              {
                class: strange ? "thumb strange" : "thumb",
                "data-image": each,
                title: label,
                "aria-label": label,
                onclick: () => this.actions.open(each),
              },
              picture(each, THUMB),
            ),
          );
        }),
      ),
    );
  }

  // Where the pictures of a class are.
  #search() {
    const { search, tree, other, side } = this.view,
      { images, name, level } = search;
    const where = (of) => of.spread(images, Math.min(level, of.levels - 1));
    const list = (of, ofSide, title) => {
      const found = where(of);
      return h(
        "section",
        { class: ofSide === side ? "found" : "found-other" },
        h("h3", {}, title),
        h(
          "p",
          { class: "lead" },
          `${found.length === 1 ? "1 cluster" : `${found.length} clusters`}; the largest holds ${percent(found[0].images / images.length)}.`,
        ),
        this.#rows(
          of,
          found.slice(0, 5).map((each) => each.node),
          (at) => `${found[at].images} of ${images.length}`,
          (node) => this.actions.focus(ofSide, node),
        ),
      );
    };
    const otherSide = side === "baseline" ? "run" : "baseline";
    return [
      h(
        "p",
        { class: "kind" },
        `Class of level “${classes.levels[level]}”`,
        h(
          "button",
          {
            class: "close",
            onclick: () => this.actions.search(null),
            "aria-label": "End the search",
            title: "End the search (Esc)",
          },
          "×",
        ),
      ),
      h("h2", { tabindex: -1 }, name),
      h("p", { class: "size" }, pictures(images.length)),
      list(tree, side, side === "baseline" ? "In the baseline" : "In this tree"),
      other ? list(other, otherSide, otherSide === "baseline" ? "In the baseline" : "In HIRL") : null,
      h("section", {}, h("h3", {}, "Pictures"), this.#thumbs(images.slice(0, 24), null)),
    ];
  }
}
