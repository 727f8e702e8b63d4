"use strict";
(() => {
  const box = document.getElementById("viewer");
  const find = (name) => document.getElementById("viewer-" + name);
  const volumes = JSON.parse(find("data").textContent);
  const { colours, levels, highest } = JSON.parse(find("colours").textContent);
  const canvas = find("canvas");
  const context = canvas.getContext("2d");
  const LONGEST = 720;
  const OUTLINE = [86, 180, 233, 255];
  let shown, position;

  const axis = () => Number(find("plane").value);
  // Columns and rows of a plane; both run against the axes of RAS+, so that the patient's right
  // (or front) is at the left and the front (or top) on top.
  const across = () => (axis() === 0 ? 1 : 0);
  const down = () => (axis() === 2 ? 1 : 2);

  async function unpack(layer) {
    if (!layer) return null;
    const packed = Uint8Array.from(atob(layer.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return { ...layer, data: new Uint8Array(await new Response(stream).arrayBuffer()) };
  }

  // Slices are numbered as in the file, which may run the other way and be finer.
  function fileSlice(n, voxel) {
    const step = shown.image.step[n];
    const index = Math.min(voxel * step + Math.floor(step / 2), shown.count[n] - 1);
    return shown.flipped[n] ? shown.count[n] - 1 - index : index;
  }

  // A plane of a layer as a small canvas; paint gets a reader and gives red, green, blue, alpha.
  function plane(layer, paint) {
    const [n, a, b] = [axis(), across(), down()];
    const strides = [1, layer.shape[0], layer.shape[0] * layer.shape[1]];
    const [width, height] = [layer.shape[a], layer.shape[b]];
    const middle = position[n] * shown.image.step[n] + Math.floor(shown.image.step[n] / 2);
    const level = Math.min(Math.floor(middle / layer.step[n]), layer.shape[n] - 1);
    const read = (x, y) =>
      x < 0 || y < 0 || x >= width || y >= height
        ? 0
        : layer.data[x * strides[a] + y * strides[b] + level * strides[n]];
    const pixels = new ImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) pixels.data.set(paint(read, x, y), 4 * (y * width + x));
    }
    const small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(small, 0, 0, width * layer.step[a], height * layer.step[b]);
  }

  function grey(read, x, y) {
    const value = read(x, y);
    return [value, value, value, 255];
  }

  function coloured(read, x, y) {
    const value = read(x, y);
    const place = Math.round((value / levels) * (colours.length - 1));
    const visible = (value / levels) * highest >= Number(find("from").value) && value > 0;
    return [...colours[place], visible ? 255 : 0];
  }

  function outlined(read, x, y) {
    const inside = read(x - 1, y) && read(x + 1, y) && read(x, y - 1) && read(x, y + 1);
    return read(x, y) && !inside ? OUTLINE : [0, 0, 0, 0];
  }

  function draw() {
    const [n, a, b] = [axis(), across(), down()];
    const width = shown.count[a] * shown.spacing[a];
    const height = shown.count[b] * shown.spacing[b];
    const scale = LONGEST / Math.max(width, height);
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    context.setTransform(
      -scale * shown.spacing[a], 0, 0, -scale * shown.spacing[b], canvas.width, canvas.height,
    );
    context.imageSmoothingEnabled = true;
    plane(shown.image, grey);
    context.globalAlpha = Number(find("opacity").value) / 100;
    plane(shown.map, coloured);
    context.globalAlpha = 1;
    if (shown.mask && find("mask").checked) {
      context.imageSmoothingEnabled = false;
      plane(shown.mask, outlined);
    }
    const slice = fileSlice(n, position[n]);
    find("slice").max = shown.image.shape[n] - 1;
    find("slice").value = position[n];
    find("slice").setAttribute("aria-valuetext", "slice " + slice);
    find("number").textContent = `${slice} (of 0 to ${shown.count[n] - 1})`;
    find("from-number").textContent = Number(find("from").value).toFixed(1);
    find("opacity-number").textContent = find("opacity").value + " %";
    box.dataset.slice = String(slice);
  }

  function go(voxel) {
    const last = shown.image.shape[axis()] - 1;
    position[axis()] = Math.max(0, Math.min(last, voxel));
    draw();
  }

  async function show(index) {
    box.dataset.ready = "";
    const { image, map, mask, ...rest } = volumes[index];
    const [first, second, third] = await Promise.all([image, map, mask].map(unpack));
    shown = { ...rest, image: first, map: second, mask: third };
    position = [...rest.start];
    find("mask").disabled = !mask;
    find("caption").textContent = rest.caption;
    draw();
    box.dataset.ready = "yes";
  }

  const keys = {
    ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10,
    Home: -Infinity, End: Infinity,
  };

  function listen() {
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      go(position[axis()] + keys[event.key]);
    });
    canvas.addEventListener("wheel", (event) => {
      // Without the focus the wheel scrolls the page past the picture.
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      go(position[axis()] - Math.sign(event.deltaY));
    }, { passive: false });
    find("slice").addEventListener("input", (event) => go(Number(event.target.value)));
    for (const name of ["plane", "from", "opacity", "mask"]) {
      find(name).addEventListener("input", draw);
    }
    find("case").addEventListener("input", (event) => show(Number(event.target.value)));
  }

  show(0).then(() => {
    listen();
    box.hidden = false;
    document.getElementById("viewer-still").classList.add("print-only");
  }).catch(() => { find("missing").hidden = false; });
})();
