// Decode the page's data: pictures, classes, and the trees of every run.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const count = facts.images.shown;
const sampled = count < facts.images.total;
const classes = facts.classes;

async function unpack(id) {
  const text = document.getElementById(id).textContent.trim();
  const packed = await (await fetch(`data:application/octet-stream;base64,${text}`)).arrayBuffer();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const block = await unpack("block");
await document.getElementById("sprite").decode();
const sprite = await createImageBitmap(document.getElementById("sprite")); // stays decoded, unlike the element's
for (const id of ["block", "sprite"]) document.getElementById(id).remove();

function array(place) {
  const [bytes, start, length] = facts.table[place];
  return new (bytes === 2 ? Uint16Array : Uint32Array)(block, start, length);
}

const indexOf = array(facts.index); // a shown picture's index in the data set
const labels = classes && classes.labels.map(array); // by class level, of every shown picture

function nameOf(image) {
  return facts.names ? facts.names[image] : `picture ${indexOf[image]}`;
}

function classOf(image, level = 0) {
  return classes ? classes.names[level][labels[level][image]] : "";
}

// A tree whose nodes know their shown pictures: those at places start to end of `images`.
class Tree {
  constructor(packed, epoch, reference) {
    this.packed = packed;
    this.epoch = epoch;
    this.levels = packed.clusters.length;
    this.hasPicks = packed.central !== null;
    this.nodes = packed.clusters.map((clusters, level) => {
      const sizes = array(packed.sizes[level]);
      return Array.from({ length: clusters }, (_, id) => ({ level, id, size: sizes[id], children: [], parent: null }));
    });
    const size = this.nodes.at(-1).reduce((total, node) => total + node.size, 0);
    this.root = { level: this.levels, id: 0, size, children: [], parent: null };
    for (let level = this.levels - 1; level >= 0; level--) this.#adopt(level);
    this.#place(reference);
  }

  // Empty clusters stay without a parent: nothing shows them.
  #adopt(level) {
    const parents = level < this.levels - 1 ? array(this.packed.parents[level]) : null;
    for (const node of this.nodes[level]) {
      if (node.size === 0) continue;
      node.parent = parents ? this.nodes[level + 1][parents[node.id]] : this.root;
      node.parent.children.push(node);
    }
  }

  // Sort siblings, so that similar ones, or those whose pictures are near each other in the reference, are neighbors.
  #place(reference) {
    const order = array(this.packed.order),
      counts = array(this.packed.counts);
    const starts = new Uint32Array(counts.length + 1);
    counts.forEach((n, leaf) => (starts[leaf + 1] = starts[leaf] + n));
    const key = this.nodes[0].map(() => 0);
    if (reference) {
      for (const leaf of this.nodes[0]) {
        for (let at = starts[leaf.id]; at < starts[leaf.id + 1]; at++) key[leaf.id] += reference.place[order[at]];
      }
    } else {
      array(this.packed.sequence).forEach((leaf, rank) => (key[leaf] = (rank + 0.5) * counts[leaf]));
    }
    const weigh = (node) => {
      const parts = node.level === 0 ? [[key[node.id], counts[node.id]]] : node.children.map(weigh);
      node.shown = parts.reduce((total, part) => total + part[1], 0);
      const sum = parts.reduce((total, part) => total + part[0], 0);
      node.rank = sum / Math.max(node.shown, 1e-9);
      node.children.sort((one, other) => one.rank - other.rank || one.id - other.id);
      return [sum, node.shown];
    };
    weigh(this.root);

    this.images = new Uint32Array(count);
    this.place = new Uint32Array(count); // of every picture in `images`
    this.leaf = new Uint32Array(count); // id of every picture's finest cluster
    let end = 0;
    const fill = (node) => {
      node.start = end;
      node.children.forEach(fill);
      if (node.level === 0) {
        for (let at = starts[node.id]; at < starts[node.id + 1]; at++) {
          const image = order[at];
          this.images[end] = image;
          this.place[image] = end++;
          this.leaf[image] = node.id;
        }
      }
      node.end = end;
    };
    fill(this.root);
  }

  node(level, id) {
    return level === this.levels ? this.root : this.nodes[level]?.[id]?.parent ? this.nodes[level][id] : null;
  }

  // From the coarsest cluster to the node itself.
  path(node) {
    const found = [];
    for (let at = node; at !== this.root; at = at.parent) found.unshift(at);
    return found;
  }

  pathOf(image) {
    return this.path(this.nodes[0][this.leaf[image]]);
  }

  clusterOf(image, level) {
    let node = this.nodes[0][this.leaf[image]];
    while (node.level < level) node = node.parent;
    return node;
  }

  shownImages(node) {
    return this.images.subarray(node.start, node.end);
  }

  // "central" or "doubtful" pictures of a cluster.
  picks(node, kind) {
    if (!this.hasPicks || node === this.root) return [];
    if (kind === "central" && node.level === 0) return Array.from(this.shownImages(node).subarray(0, facts.picks));
    const all = array(this.packed[kind][node.level]),
      each = all.length / this.nodes[node.level].length;
    return Array.from(all.subarray(node.id * each, (node.id + 1) * each))
      .filter(Boolean)
      .map((image) => image - 1);
  }

  // The most common class of a cluster at a class level, and its part of the cluster's images.
  majority(node, classLevel) {
    const [common, images] = this.packed.classes[node.level].map(array);
    const place = node.id * classes.levels.length + classLevel;
    return { id: common[place], name: classes.names[classLevel][common[place]], part: images[place] / node.size };
  }

  // The part of all images that are of their cluster's most common class.
  purity(level, classLevel) {
    const images = array(this.packed.classes[level][1]),
      step = classes.levels.length;
    let total = 0;
    for (let at = classLevel; at < images.length; at += step) total += images[at];
    return total / facts.images.total;
  }

  // The cluster of a level that holds most of some pictures.
  bestMatch(images, level) {
    return this.spread(images, level)[0]?.node ?? this.root;
  }

  // The clusters of a level that hold some pictures, those with the most first.
  spread(images, level) {
    const held = new Map();
    for (const image of images) {
      const node = this.clusterOf(image, level);
      held.set(node, (held.get(node) ?? 0) + 1);
    }
    const found = Array.from(held, ([node, images]) => ({ node, images }));
    return found.sort((one, other) => other.images - one.images || one.node.id - other.node.id);
  }
}

// The class level that a tree's level is compared with.
function classLevelOf(level) {
  return Math.min(level, classes.levels.length - 1);
}

class Run {
  constructor(packed) {
    this.packed = packed;
    this.name = packed.name;
    this.title = packed.title;
    this.stops = packed.trees.map((tree) => ({
      epoch: tree.epoch,
      label: `after ${tree.epoch} ${tree.epoch === 1 ? "epoch" : "epochs"}`,
      packed: tree,
    }));
    if (packed.own) this.stops.push({ epoch: null, label: "features", packed: packed.own });
    this.last = packed.trees.length - 1;
    this.neighbors = packed.neighbors === null ? null : array(packed.neighbors);
    this.baselineNeighbors = packed.baseline_neighbors === null ? null : array(packed.baseline_neighbors);
    this.made = new Map();
  }

  // The tree of a stop of the slider; the last training tree sets the order of all others.
  tree(stop) {
    if (!this.made.has(stop)) {
      const { packed, epoch } = this.stops[stop];
      this.made.set(stop, new Tree(packed, epoch, stop === this.last ? null : this.tree(this.last)));
    }
    return this.made.get(stop);
  }

  get baseline() {
    if (this.packed.baseline === null) return null;
    if (!this.made.has("baseline")) {
      this.made.set("baseline", new Tree(this.packed.baseline, null, this.tree(this.last)));
    }
    return this.made.get("baseline");
  }

  nearest(image, ofBaseline) {
    const all = ofBaseline ? this.baselineNeighbors : this.neighbors;
    if (all === null) return [];
    const each = all.length / count;
    return Array.from(all.subarray(image * each, (image + 1) * each));
  }
}

const runs = facts.runs.map((packed) => new Run(packed));
