"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
document.getElementById("app").textContent =
  facts.runs.map((run) => `${run.title}: ${run.trees.at(-1).clusters.join(", ")} clusters`).join("; ");
