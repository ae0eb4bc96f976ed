// Lay out the clusters of a focus as a treemap of its pictures, paint it, and move pictures when it changes.

const HEADER = 19; // pixels above the clusters of a focus
const GAPS = [5, 2, 1]; // pixels between clusters, by depth below the focus
const LEAST_CLUSTER = 150; // square pixels: levels with smaller clusters are not drawn apart
const ANIMATED_AT_MOST = 12000; // pictures that move one by one; more are replaced at once
const DURATION = 520; // milliseconds
const DIMMED = 0.13; // opacity of pictures outside a search
const SMALL = Math.min(facts.images.tile, count > ANIMATED_AT_MOST ? 8 : 16); // pixels a side in the small sprite
const DRAWN_AT_MOST = 800; // pictures drawn one by one while they move: more are copied, without a GPU that is faster
const COPIED_PIXELS = 1.5e6; // of a map, at most, while pictures move: a finer screen has a GPU
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Return boxes of clusters below the focus, coarse first, and the rectangle of every picture in it: 4 values each.
function layOut(tree, focus, width, height) {
  const tiles = new Float32Array(4 * count).fill(NaN);
  const deepest = deepestDrawn(focus, width * height);
  const root = d3.hierarchy(focus, (node) => (node.level > deepest && node.children.length ? node.children : null));
  root.each((node) => (node.value = node.data.size));
  const inner = (node) => GAPS[Math.min(node.depth, GAPS.length - 1)];
  d3
    .treemap()
    .tile(d3.treemapBinary)
    .size([width, height])
    .paddingInner(inner)
    .paddingTop((node) => (hasHeader(node) && node.children ? HEADER + 1 : 0))(root);
  const boxes = [];
  root.each((node) => {
    const box = { node: node.data, depth: node.depth, x0: node.x0, y0: node.y0, x1: node.x1, y1: node.y1 };
    box.header = hasHeader(node);
    if (node.depth > 0) boxes.push(box);
    if (node.children) return;
    if (node.depth === 0) gallery(tree, node.data, box, tiles);
    else fillBox(tree, node.data, { ...box, y0: box.y0 + (box.header ? HEADER : 0) }, tiles);
  });
  return { boxes, tiles };
}

// Clusters just below the focus have their name above them, if they are large enough.
function hasHeader(node) {
  return node.depth === 1 && node.y1 - node.y0 > 2.2 * HEADER && node.x1 - node.x0 > 40;
}

// The finest level whose clusters are large enough to be drawn apart.
function deepestDrawn(focus, area) {
  const counted = (node, level) =>
    node.level === level ? 1 : node.children.reduce((sum, child) => sum + counted(child, level), 0);
  for (let level = 0; level < focus.level; level++) {
    if (area / counted(focus, level) >= LEAST_CLUSTER) return level;
  }
  return focus.level - 1;
}

// Fill a box with its pictures, in rows of the same height.
function fillBox(tree, node, box, tiles) {
  const images = tree.shownImages(node),
    n = images.length,
    width = box.x1 - box.x0,
    height = box.y1 - box.y0;
  if (n === 0 || width < 1 || height < 1) return;
  const rows = Math.min(n, Math.max(1, Math.round(Math.sqrt((n * height) / width))));
  const tall = height / rows;
  for (let row = 0, at = 0; row < rows; row++) {
    const end = Math.floor(((row + 1) * n) / rows),
      wide = width / (end - at);
    for (let left = box.x0; at < end; at++, left += wide) {
      // crop a picture at most by a fifth, and leave the rest of its place empty
      const w = Math.min(wide, 1.25 * tall),
        h = Math.min(tall, 1.25 * wide),
        gap = Math.min(w, h) > 9 ? 1 : 0;
      tiles.set([left + (wide - w) / 2, box.y0 + row * tall + (tall - h) / 2, w - gap, h - gap], 4 * images[at]);
    }
  }
}

// Show the pictures of a finest cluster as squares.
function gallery(tree, node, box, tiles) {
  const images = tree.shownImages(node),
    n = images.length,
    width = box.x1,
    height = box.y1;
  let side = 0,
    columns = 1;
  for (let c = 1; c <= n; c++) {
    const fits = Math.min(width / c, height / Math.ceil(n / c), 180);
    if (fits > side) [side, columns] = [fits, c];
  }
  const left = (width - columns * side) / 2;
  images.forEach((image, at) => {
    tiles.set([left + (at % columns) * side, Math.floor(at / columns) * side, side - 3, side - 3], 4 * image);
  });
}

// The pixels of all pictures at SMALL pixels a side; halved step by step, so that each pixel is a mean.
let smallPixels = null;
function smallSprite() {
  if (smallPixels) return smallPixels;
  const { tile, columns } = facts.images,
    rows = Math.ceil(count / columns);
  let from = sprite,
    side = tile;
  while (side > SMALL) {
    const next = Math.max(SMALL, side / 2),
      canvas = new OffscreenCanvas(columns * next, rows * next),
      context = canvas.getContext("2d");
    context.drawImage(from, 0, 0, columns * side, rows * side, 0, 0, canvas.width, canvas.height);
    [from, side] = [canvas, next];
  }
  smallPixels = new Uint32Array(from.getContext("2d").getImageData(0, 0, from.width, from.height).data.buffer);
  return smallPixels;
}

function ease(t) {
  return t < 0.5 ? 4 * t * t * t : 1 - (2 - 2 * t) ** 3 / 2;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// One treemap on the page: `side` is "run" or "baseline".
class TreeMap {
  constructor(side, element, actions) {
    this.side = side;
    this.element = element;
    this.actions = actions;
    this.canvas = element.querySelector("canvas");
    this.overlay = element.querySelectorAll("canvas")[1];
    this.tip = element.querySelector(".tip");
    this.now = null; // the tiles on screen
    this.cursor = null; // index of the box, or the place of the picture, that the keys are at
    this.#listen();
  }

  show({ tree, focus, highlight, marks, picked, near }) {
    const before = this.focus;
    const changed = tree !== this.tree || focus !== before;
    Object.assign(this, { tree, focus, highlight, marks, picked, near });
    this.element.dataset.focus = focus === tree.root ? "" : `${focus.level}-${focus.id}`;
    if (!this.#fit() && !changed) return this.paint();
    if (changed) this.cursor = null;
    const zoomed = changed && before && this.drawn?.tree === tree ? before : null;
    const last = this.drawn;
    this.drawn = { tree, ...layOut(tree, focus, this.width, this.height) };
    this.#move(last, zoomed);
  }

  // Match the canvases to the element; return whether its size has changed.
  #fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement,
      scale = devicePixelRatio || 1;
    if (width === this.width && height === this.height && scale === this.scale) return false;
    Object.assign(this, { width, height, scale, now: null });
    for (const canvas of [this.canvas, this.overlay]) [canvas.width, canvas.height] = [width * scale, height * scale];
    return true;
  }

  resize() {
    if (!this.tree || !this.#fit()) return;
    this.drawn = { tree: this.tree, ...layOut(this.tree, this.focus, this.width, this.height) };
    this.#settle();
  }

  // Move the pictures from where they are to the new layout.
  #move(last, before) {
    const target = this.drawn.tiles;
    if (calm.matches || this.now === null) return this.#settle();
    if (Math.max(this.focus.shown, before?.shown ?? 0) > ANIMATED_AT_MOST) return this.#zoom(last, before);
    const from = Float32Array.from(this.now),
      to = this.#leaving(last, before, from, target);
    this.#animate((part) => {
      for (let at = 0; at < to.length; at++) this.now[at] = from[at] + (to[at] - from[at]) * part;
      this.paint(part);
    });
  }

  // Zoom the painted map instead of many pictures: from the box of the new focus to all, or back.
  #zoom(last, before) {
    const copy = () => {
      const canvas = new OffscreenCanvas(this.canvas.width, this.canvas.height);
      canvas.getContext("2d").drawImage(this.canvas, 0, 0);
      return canvas;
    };
    const old = copy(),
      { width, height } = this,
      whole = { x0: 0, y0: 0, x1: width, y1: height };
    const inward = last?.boxes.find((box) => box.node === this.focus),
      outward = this.drawn.boxes.find((box) => box.node === before);
    this.#settle();
    const fresh = copy(),
      context = this.canvas.getContext("2d", { alpha: false });
    const box = inward ?? outward ?? whole,
      [outer, inner] = inward ? [old, fresh] : [fresh, old];
    this.#animate((part) => {
      const t = inward ? part : 1 - part,
        mix = (from, to) => from + (to - from) * t;
      const [x0, y0, x1, y1] = [mix(box.x0, 0), mix(box.y0, 0), mix(box.x1, width), mix(box.y1, height)];
      const sx = (x1 - x0) / (box.x1 - box.x0),
        sy = (y1 - y0) / (box.y1 - box.y0);
      context.globalAlpha = 1;
      context.drawImage(outer, x0 - box.x0 * sx, y0 - box.y0 * sy, width * sx, height * sy);
      context.globalAlpha = t;
      context.drawImage(inner, x0, y0, x1 - x0, y1 - y0);
      context.globalAlpha = 1;
    });
  }

  #animate(draw) {
    const started = performance.now();
    cancelAnimationFrame(this.frame);
    const step = (time) => {
      const t = Math.min(1, Math.max(0, (time - started) / DURATION));
      if (t === 1) return this.#settle();
      draw(ease(t));
      this.frame = requestAnimationFrame(step);
    };
    this.moving = true;
    this.element.dataset.moving = "1";
    this.frame = requestAnimationFrame(step);
  }

  // Where every picture goes: those outside the focus fly out with a zoom, otherwise they shrink in place.
  #leaving(last, before, from, target) {
    const to = Float32Array.from(target);
    const box = before && last?.boxes.find((found) => found.node === this.focus);
    const sx = box ? this.width / (box.x1 - box.x0) : 1,
      sy = box ? this.height / (box.y1 - box.y0) : 1;
    for (let at = 0; at < to.length; at += 4) {
      if (!Number.isNaN(to[at])) {
        if (Number.isNaN(from[at])) from.set([to[at] + to[at + 2] / 2, to[at + 1] + to[at + 3] / 2, 0, 0], at);
      } else if (Number.isNaN(from[at])) {
        from[at] = to[at] = -1e4;
      } else if (box) {
        to.set([(from[at] - box.x0) * sx, (from[at + 1] - box.y0) * sy, from[at + 2] * sx, from[at + 3] * sy], at);
      } else {
        to.set([from[at] + from[at + 2] / 2, from[at + 1] + from[at + 3] / 2, 0, 0], at);
      }
    }
    if (before && !box) this.#arriving(before, from);
    return to;
  }

  // On the way out of a cluster, the others come back from outside.
  #arriving(before, from) {
    const box = this.drawn.boxes.find((found) => found.node === before);
    if (!box) return;
    const sx = this.width / (box.x1 - box.x0),
      sy = this.height / (box.y1 - box.y0),
      { tiles } = this.drawn;
    const inside = new Set(this.tree.shownImages(before));
    for (const image of this.tree.shownImages(this.focus)) {
      const at = 4 * image;
      if (inside.has(image)) continue;
      from.set([(tiles[at] - box.x0) * sx, (tiles[at + 1] - box.y0) * sy, tiles[at + 2] * sx, tiles[at + 3] * sy], at);
    }
  }

  #settle() {
    cancelAnimationFrame(this.frame);
    this.moving = false;
    delete this.element.dataset.moving;
    this.now = Float32Array.from(this.drawn.tiles);
    this.paint();
  }

  paint(part = 1) {
    const context = this.canvas.getContext("2d", { alpha: false });
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.fillStyle = color("surface");
    context.fillRect(0, 0, this.width, this.height);
    this.#paintBoxes(context, part);
    this.#paintTiles(context);
    if (this.marks && classes) this.#paintMarks(context);
    this.#paintOverlay();
  }

  #paintBoxes(context, part) {
    context.globalAlpha = part;
    const [fill, ink, quiet] = ["group", "ink", "quiet"].map(color);
    context.textBaseline = "middle";
    for (const box of this.drawn.boxes) {
      if (box.depth !== 1) continue;
      context.fillStyle = fill;
      context.fillRect(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0);
      if (!box.header) continue;
      const { name, part: purity } = titleOf(this.tree, box.node),
        room = box.x1 - box.x0 - 10;
      context.font = `600 11.5px ${FONT}`;
      context.fillStyle = ink;
      const used = write(context, name, box.x0 + 6, box.y0 + HEADER / 2 + 1, room);
      context.font = `400 11px ${FONT}`;
      context.fillStyle = quiet;
      const details = purity === null ? `${box.node.size}` : `${percent(purity)} of ${box.node.size}`;
      if (used + 6 + context.measureText(details).width < room) {
        context.fillText(details, box.x0 + 6 + used + 6, box.y0 + HEADER / 2 + 1);
      }
    }
    context.globalAlpha = 1;
  }

  #paintTiles(context) {
    const { tile, columns } = facts.images,
      { now, width, height, highlight } = this,
      seen = this.#countSeen(),
      quick = this.moving && this.canvas.width * this.canvas.height < COPIED_PIXELS;
    if (seen > (quick ? DRAWN_AT_MOST : ANIMATED_AT_MOST)) return this.#paintPixels(context);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = this.moving ? "low" : "medium";
    for (let image = 0, at = 0; image < count; image++, at += 4) {
      const x = now[at],
        y = now[at + 1],
        w = now[at + 2],
        h = now[at + 3];
      if (!(w > 0.3) || x > width || y > height || x + w < 0 || y + h < 0) continue;
      const side = tile / Math.max(w, h),
        sw = w * side,
        sh = h * side; // the middle of the picture, uncropped if square
      const sx = (image % columns) * tile + (tile - sw) / 2,
        sy = Math.floor(image / columns) * tile + (tile - sh) / 2;
      if (highlight) context.globalAlpha = highlight[image] ? 1 : DIMMED;
      context.drawImage(sprite, sx, sy, sw, sh, x, y, w, h);
    }
    context.globalAlpha = 1;
  }

  #countSeen() {
    const { now, width, height } = this;
    let seen = 0;
    for (let at = 0; at < now.length; at += 4) {
      if (now[at + 2] > 0.3 && now[at] < width && now[at + 1] < height && now[at] + now[at + 2] > 0) seen++;
    }
    return seen;
  }

  // Many pictures are small: copying their pixels from a small sprite is some 50 times faster than drawing each.
  #paintPixels(context) {
    const { scale, now, highlight } = this,
      { columns } = facts.images,
      small = smallSprite(),
      stride = columns * SMALL;
    const wide = this.canvas.width,
      tall = this.canvas.height,
      pixels = new ImageData(wide, tall),
      out = new Uint32Array(pixels.data.buffer);
    const dim = (DIMMED * 255) << 24;
    for (let image = 0, at = 0; image < count; image++, at += 4) {
      if (!(now[at + 2] > 0)) continue;
      const x0 = Math.max(0, Math.round(now[at] * scale)),
        x1 = Math.min(wide, Math.round((now[at] + now[at + 2]) * scale));
      const y0 = Math.max(0, Math.round(now[at + 1] * scale)),
        y1 = Math.min(tall, Math.round((now[at + 1] + now[at + 3]) * scale));
      const corner = Math.floor(image / columns) * SMALL * stride + (image % columns) * SMALL;
      const sx = SMALL / (x1 - x0),
        sy = SMALL / (y1 - y0),
        faded = highlight && !highlight[image];
      for (let y = y0; y < y1; y++) {
        const row = corner + (((y - y0 + 0.5) * sy) | 0) * stride;
        for (let x = x0, to = y * wide + x0; x < x1; x++, to++) {
          const value = small[row + (((x - x0 + 0.5) * sx) | 0)];
          out[to] = faded ? (value & 0xffffff) | dim : value;
        }
      }
    }
    const layer = new OffscreenCanvas(wide, tall);
    layer.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0, this.width, this.height);
  }

  // Mark pictures whose class is not the most common one of their cluster below the focus: a corner, or all of a small one.
  #paintMarks(context) {
    context.fillStyle = color("stranger");
    context.beginPath();
    for (const node of this.atLeaf ? [this.focus] : this.focus.children) {
      const level = classLevelOf(node.level),
        common = this.tree.majority(node, level).id;
      for (const image of this.tree.shownImages(node)) {
        if (labels[level][image] !== common) this.#mark(context, image);
      }
    }
    context.globalAlpha = 0.85;
    context.fill();
    context.globalAlpha = 1;
  }

  #mark(context, image) {
    const [x, y, w, h] = this.now.subarray(4 * image, 4 * image + 4),
      side = w < 24 ? w : Math.max(9, w * 0.2);
    context.moveTo(x, y);
    context.lineTo(x + side, y);
    context.lineTo(x, y + Math.min(side, h));
    context.closePath();
  }

  #paintOverlay() {
    const context = this.overlay.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (this.moving) return;
    const frame = (x0, y0, x1, y1, name, wide = 2) => {
      context.strokeStyle = color("surface");
      context.lineWidth = wide + 2;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.strokeStyle = color(name);
      context.lineWidth = wide;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    };
    if (this.hovered)
      frame(this.hovered.x0 + 1, this.hovered.y0 + 1, this.hovered.x1 - 1, this.hovered.y1 - 1, "accent");
    const ring = (image, name) => {
      const [x, y, w, h] = this.now.subarray(4 * image, 4 * image + 4);
      const grow = Math.max(0, (12 - w) / 2) + 1;
      if (w > 0) frame(x - grow, y - grow, x + w + grow, y + h + grow, name);
    };
    for (const image of this.near) ring(image, "accent");
    if (this.picked !== null && this.picked !== undefined) ring(this.picked, "stranger");
    if (this.hoveredImage !== undefined) ring(this.hoveredImage, "accent");
  }

  // The box below the focus and the picture at a point.
  #at(x, y) {
    const inside = ({ depth, x0, y0, x1, y1 }) => {
      const reach = depth === 1 ? GAPS[0] : 0; // a click between two clusters is one on either
      return x >= x0 && x < x1 + reach && y >= y0 && y < y1 + reach;
    };
    const found = this.drawn.boxes.filter(inside);
    const node = found.at(-1)?.node ?? this.focus;
    const gap = this.atLeaf ? 3 : 1;
    const image = this.tree.shownImages(node).find((image) => {
      const at = 4 * image,
        { now } = this;
      return x >= now[at] && x < now[at] + now[at + 2] + gap && y >= now[at + 1] && y < now[at + 1] + now[at + 3] + gap;
    });
    return { box: found.find((box) => box.depth === 1), node, image };
  }

  get atLeaf() {
    return this.focus.children.length === 0;
  }

  enter({ box, image }) {
    if (this.atLeaf && image !== undefined) this.actions.open(image);
    else if (box) this.actions.focus(this.side, box.node);
  }

  #listen() {
    const { overlay } = this;
    const point = (event) => {
      const { left, top } = overlay.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    overlay.addEventListener("pointermove", (event) => {
      if (this.moving || event.pointerType === "touch") return;
      const [x, y] = point(event),
        found = this.#at(x, y);
      this.#hover(found.box, this.atLeaf ? found.image : undefined);
      this.#tell(found, x, y);
    });
    overlay.addEventListener("pointerleave", () => {
      this.#hover();
      this.tip.hidden = true;
    });
    overlay.addEventListener("click", (event) => {
      if (this.moving) this.#settle();
      this.enter(this.#at(...point(event)));
      this.tip.hidden = true;
    });
    overlay.addEventListener("wheel", (event) => this.#turn(event, ...point(event)), { passive: false });
    overlay.addEventListener("keydown", (event) => this.#key(event));
    overlay.addEventListener("blur", () => this.#hover());
  }

  #hover(box, image) {
    if (box === this.hovered && image === this.hoveredImage) return;
    Object.assign(this, { hovered: box, hoveredImage: image });
    this.#paintOverlay();
    this.actions.hover(this.side, box?.node ?? null);
  }

  // The wheel steps into the cluster below the pointer, or out: one step a turn.
  #turn(event, x, y) {
    event.preventDefault();
    const now = performance.now();
    this.turned = now - (this.turnedAt ?? 0) > 250 ? event.deltaY : this.turned + event.deltaY;
    this.turnedAt = now;
    if (this.moving || Math.abs(this.turned) < 40) return;
    const { box } = this.#at(x, y);
    if (this.turned > 0) this.actions.out(this.side);
    else if (!this.atLeaf && box) this.actions.focus(this.side, box.node);
    this.turned = 0;
  }

  #tell({ box, node, image }, x, y) {
    const { tip } = this;
    if (!box && image === undefined) return void (tip.hidden = true);
    tip.replaceChildren();
    if (image !== undefined) tip.append(picture(image, 72));
    const lines = image === undefined ? [] : [classes ? classOf(image) : nameOf(image)];
    const path = this.tree.path(node).filter((found) => found.level < this.focus.level);
    lines.push(...path.map((found) => `in ${headline(this.tree, found)}`));
    tip.append(h("div", {}, ...lines.map((line, number) => h(number || image === undefined ? "p" : "b", {}, line))));
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(4, Math.min(x + 16, this.width - width - 4))}px`;
    tip.style.top = `${y + 18 + height < this.height ? y + 18 : Math.max(4, y - height - 12)}px`;
  }

  // Arrows go from cluster to cluster, or from picture to picture; Enter goes in, Escape out.
  #key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    const stops = this.atLeaf
      ? Array.from(this.tree.shownImages(this.focus))
      : this.drawn.boxes.filter((box) => box.depth === 1);
    if (event.key in steps) {
      this.cursor = this.cursor === null ? 0 : (this.cursor + steps[event.key] + stops.length) % stops.length;
      const stop = stops[this.cursor];
      this.#hover(this.atLeaf ? undefined : stop, this.atLeaf ? stop : undefined);
      this.actions.say(this.atLeaf ? `${nameOf(stop)} ${classOf(stop)}` : headline(this.tree, stop.node));
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      if (this.cursor !== null) this.enter(this.atLeaf ? { image: stops[this.cursor] } : { box: stops[this.cursor] });
    } else if (event.key === "ArrowUp") {
      this.actions.out(this.side);
    } else return;
    event.preventDefault();
  }
}

// Write text, shortened to the room; return its width.
function write(context, text, x, y, room) {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > room) shown = `${shown.slice(0, -2).trimEnd()}…`;
  if (shown.length < 3 && shown !== text) return room;
  context.fillText(shown, x, y);
  return context.measureText(shown).width;
}
