// The pictures of one cell, in a dialog.

const ROLES = {
  fixed: ["The same images for every method", (one) => `image ${one.image}`],
  worst: ["The worst image of each method", (one) => `its worst, ${one.image}`],
  median: ["A middling image of each method", (one) => `middling, ${one.image}`],
  best: ["The best image of each method", (one) => `its best, ${one.image}`],
};

function startViewer(data, state, strips, metric) {
  const dialog = id("viewer");
  const stored = JSON.parse(id("picture-data").textContent);
  const layer = () => document.querySelector('input[name="layer"]:checked').value;

  function open() {
    const [source, target] = [data.sources[state.row], data.targets[state.column]];
    const roles = stored.album.cells[`${source}|${target}`] ?? {};
    id("viewer-title").textContent = `Trained on ${source}, tested on ${target}`;
    id("viewer-layers").hidden = !Object.keys(roles).length;
    const parts = [make("p", { class: "note", text: `${metric().title}, mean over seeds; bars: 95 % bootstrap over seeds and ${data.people ?? "subjects"}` }), strips()];
    parts.push(...(Object.keys(roles).length ? gallery(roles) : [make("p", { text: without(source, target) })]));
    id("viewer-body").replaceChildren(...parts);
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  function without(source, target) {
    const reason = data.missing[source] ?? data.missing[target];
    return reason === undefined ? "There are no pictures of this pair in this page." : `Left out: ${reason}`;
  }

  function gallery(roles) {
    const seeds = [...new Set(Object.values(roles).flat().map((one) => one.seed))].join(", ");
    const note = `Pictures of seed ${seeds}; those of other seeds, and all of them in full size, are in the folder overlays.`;
    const parts = [keys(), make("p", { class: "note", text: stored.left_out ? `${note} ${stored.left_out} pictures did not fit into this page.` : note })];
    for (const [role, pictures] of Object.entries(roles)) {
      parts.push(make("h3", { text: ROLES[role][0] }));
      for (const group of groups(role, pictures)) {
        if (role === "fixed") parts.push(make("h4", { text: `Image ${group[0].image}, subject ${group[0].subject}` }));
        parts.push(make("div", { class: "shots" }, ...group.map((one) => shot(one, role))));
      }
    }
    return parts;
  }

  function groups(role, pictures) {
    if (role !== "fixed") return [pictures];
    const images = [...new Set(pictures.map((one) => one.image))];
    return images.map((image) => pictures.filter((one) => one.image === image));
  }

  function shot(one, role) {
    const image = make("img", { loading: "lazy", decoding: "async" });
    const paint = () => {
      image.src = stored.album.files[one[layer()]];
      image.alt = altText(one, role, layer());
    };
    image.addEventListener("repaint", paint);
    paint();
    const link = make("a", { href: one.full, target: "_blank", rel: "noopener", title: "full size" }, image);
    const words = make("figcaption", {}, make("b", { text: one.title }), ` Dice ${one.score.toFixed(3)}`);
    if (role !== "fixed") words.append(make("br"), `${one.image}, subject ${one.subject}`);
    return make("figure", {}, link, words);
  }

  function altText(one, role, what) {
    if (what === "photo") return `${one.image} as the network sees it`;
    if (what === "label") return `the label of ${one.image}`;
    return `${one.title}, ${ROLES[role][1](one)}: hits, false positives and misses in colour; Dice ${one.score.toFixed(3)}`;
  }

  function keys() {
    const list = make("ul", { class: "keys", "aria-label": "colours" });
    for (const [name, colour] of Object.entries(stored.colours)) {
      list.append(make("li", {}, make("i", { style: { backgroundColor: colour } }), name));
    }
    return list;
  }

  for (const radio of all('input[name="layer"]')) {
    radio.addEventListener("change", () => all("img", id("viewer-body")).forEach((image) => image.dispatchEvent(new Event("repaint"))));
  }
  id("viewer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    id("viewer-body").replaceChildren();
    id("heat-table").querySelector('td[tabindex="0"]').focus();
  });
  return open;
}
