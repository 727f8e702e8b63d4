"use strict";
(() => {
  const box = document.getElementById("viewer");
  const find = (name) => document.getElementById("viewer-" + name);
  const told = (control) => box.querySelector(`output[for="${control.id}"]`);
  const volumes = JSON.parse(find("data").textContent);
  const { colours, levels, highest } = JSON.parse(find("colours").textContent);
  // Axes of RAS+. Columns and rows of a plane run against them, so that the patient's right (or
  // front) is at the left and the front (or top) on top.
  const ENDS = ["LR", "PA", "IS"];
  const PLANES = [
    { name: "sagittal", axis: 0, across: 1, down: 2 },
    { name: "coronal", axis: 1, across: 0, down: 2 },
    { name: "axial", axis: 2, across: 0, down: 1 },
  ].map((plane) => {
    const canvas = find(plane.name);
    const context = canvas.getContext("2d");
    return { ...plane, canvas, context, slider: find("slice-" + plane.name) };
  });
  const FONT = "system-ui, sans-serif";
  const MARK = "#7dff9b";
  const OUTLINE = rgba(86, 180, 233);
  // The volume that is shown, and the voxel of it, in RAS+, on which the crosshair lies.
  let shown, place;

  function rgba(red, green, blue, alpha = 255) {
    return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }

  async function unpack(layer) {
    if (!layer) return null;
    const packed = Uint8Array.from(atob(layer.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = new Uint8Array(await new Response(stream).arrayBuffer());
    return { ...layer, data, strides: [1, layer.shape[0], layer.shape[0] * layer.shape[1]] };
  }

  // Slices are numbered as in the file, which may run the other way.
  const fileSlice = (axis, index) => (shown.flipped[axis] ? shown.count[axis] - 1 - index : index);
  const voxel = (layer, axis) => Math.floor(place[axis] / layer.step[axis]);
  const within = (axis, index) => Math.max(0, Math.min(shown.count[axis] - 1, index));
  const number = (value) => String(Number(value.toPrecision(4)));
  const value = (name) => Number(find(name).value);

  function at(layer) {
    return layer.data[[0, 1, 2].reduce((sum, n) => sum + voxel(layer, n) * layer.strides[n], 0)];
  }

  // A layer of a plane, each byte of it coloured by a palette; outlined: only the border of what is
  // not 0.
  function paint({ axis, across, down, context }, layer, palette, outlined) {
    const { data, shape, step, strides } = layer;
    const [width, height] = [shape[across], shape[down]];
    const [dx, dy] = [strides[across], strides[down]];
    const start = voxel(layer, axis) * strides[axis];
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let y = 0, n = 0; y < height; y++) {
      for (let x = 0; x < width; x++, n++) {
        const from = start + x * dx + y * dy;
        const inner = outlined && x && y && x < width - 1 && y < height - 1 &&
          data[from - dx] && data[from + dx] && data[from - dy] && data[from + dy];
        pixels[n] = inner ? 0 : palette[data[from]];
      }
    }
    const small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    small.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(small, 0, 0, width * step[across], height * step[down]);
  }

  function greys() {
    const [width, level] = [value("width"), value("level")];
    return shown.values.map((one) => {
      const grey = Math.round(255 * Math.max(0, Math.min(1, (one - level) / width + 0.5)));
      return rgba(grey, grey, grey);
    });
  }

  function heat() {
    return Array.from({ length: levels + 1 }, (_, n) => {
      const visible = n > 0 && (n / levels) * highest >= value("from");
      const colour = colours[Math.round((n / levels) * (colours.length - 1))];
      return rgba(...colour, visible ? 255 : 0);
    });
  }

  // The canvas fills the width there is, in the proportions in mm.
  function fit({ canvas, across, down }) {
    const [width, height] = [across, down].map((n) => shown.count[n] * shown.spacing[n]);
    const large = canvas.parentElement === find("planes").firstElementChild;
    const tallest = window.innerHeight * (large ? 0.72 : 0.45);
    const scale = Math.min(canvas.parentElement.clientWidth / width, tallest / height);
    canvas.style.width = `${width * scale}px`;
    canvas.width = Math.max(1, Math.round(width * scale * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(height * scale * devicePixelRatio));
  }

  function drawPlane(plane, grey, hot) {
    const { canvas, context, across, down, axis, slider } = plane;
    fit(plane);
    const [width, height] = [canvas.width, canvas.height];
    context.setTransform(
      -width / shown.count[across], 0, 0, -height / shown.count[down], width, height,
    );
    paint(plane, shown.image, grey);
    context.globalAlpha = value("opacity") / 100;
    paint(plane, shown.map, hot);
    context.globalAlpha = 1;
    if (shown.mask && find("mask").checked) {
      context.imageSmoothingEnabled = false;
      paint(plane, shown.mask, [0, OUTLINE], true);
    }
    context.resetTransform();
    drawCrosshair(plane);
    drawLetters(plane);
    const slice = fileSlice(axis, place[axis]);
    slider.max = shown.count[axis] - 1;
    slider.value = place[axis];
    slider.setAttribute("aria-valuetext", "slice " + slice);
    told(slider).textContent = `${slice} (of 0 to ${shown.count[axis] - 1})`;
    canvas.dataset.slice = String(slice);
  }

  function drawCrosshair({ canvas, context, across, down }) {
    const x = (1 - (place[across] + 0.5) / shown.count[across]) * canvas.width;
    const y = (1 - (place[down] + 0.5) / shown.count[down]) * canvas.height;
    const gap = 10 * devicePixelRatio; // what it points at stays visible
    context.strokeStyle = MARK;
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(x + side * gap, y);
      context.lineTo(x + side * canvas.width, y);
      context.moveTo(x, y + side * gap);
      context.lineTo(x, y + side * canvas.height);
    }
    context.stroke();
  }

  function drawLetters({ name, canvas, context, across, down }) {
    const size = 15 * devicePixelRatio;
    const { width, height } = canvas;
    const [right, left] = ENDS[across];
    const [bottom, top] = ENDS[down];
    context.font = `bold ${size}px ${FONT}`;
    [context.textAlign, context.textBaseline] = ["center", "middle"];
    [context.fillStyle, context.strokeStyle, context.lineWidth] = ["#ffffff", "#000000", size / 4];
    for (const [letter, x, y] of [
      [left, size, height / 4], [right, width - size, height / 4],
      [top, width / 4, size], [bottom, width / 4, height - size],
    ]) {
      context.strokeText(letter, x, y);
      context.fillText(letter, x, y);
    }
    canvas.setAttribute(
      "aria-label", `${name} plane: ${left} at the left, ${right} at the right, ${top} on top, ${bottom} below`,
    );
  }

  function draw() {
    const [grey, hot] = [greys(), heat()];
    for (const plane of PLANES) drawPlane(plane, grey, hot);
    drawStrip();
    told(find("width")).textContent = number(value("width"));
    told(find("level")).textContent = number(value("level"));
    told(find("from")).textContent = value("from").toFixed(1);
    told(find("opacity")).textContent = find("opacity").value + " %";
    const slices = [2, 1, 0].map((n) => `${PLANES[n].name} ${fileSlice(n, place[n])}`).join(", ");
    const found = (at(shown.map) / levels) * highest;
    const more = found >= highest ? " or more" : "";
    find("place").textContent = `Crosshair: ${slices}; image ${number(shown.values[at(shown.image)])}, ` +
      `map ${found.toFixed(2)} sd${more}.`;
  }

  // One bar for each slice; slices that were not scored have none.
  function drawStrip() {
    const { axis, scores, threshold, of } = shown.strip;
    const strip = find("strip");
    const known = scores.filter((one) => one !== null);
    const top = Math.max(...known, threshold ?? 0, 0);
    const bottom = Math.min(...known, threshold ?? 0, 0);
    const y = (score) => (100 * (top - score)) / (top - bottom || 1);
    const bars = (chosen) => scores.map((one, n) =>
      one !== null && chosen(one) ? `M${n + 0.1} ${y(0)}V${y(one)}h.8V${y(0)}z` : "").join("");
    const above = (one) => threshold !== null && one > threshold;
    const paths = [
      bars((one) => !above(one)), bars(above),
      threshold === null ? "" : `M0 ${y(threshold)}H${scores.length}`,
      `M${place[axis] + 0.5} 0V100`,
    ];
    strip.setAttribute("viewBox", `0 0 ${scores.length} 100`);
    strip.querySelectorAll("path").forEach((path, n) => path.setAttribute("d", paths[n]));
    const [slice, score] = [fileSlice(axis, place[axis]), scores[place[axis]]];
    const here = score === null ? "not scored" : score.toFixed(2);
    const name = PLANES[axis].name;
    find("strip-title").textContent = `${of[0].toUpperCase()}${of.slice(1)} of each ${name} slice, ` +
      `from ${bottom.toFixed(2)} to ${top.toFixed(2)}` +
      (threshold === null ? "" : `; dashed: threshold ${threshold.toFixed(2)}`) +
      `. Slice ${slice}: ${here}`;
    const now = { min: 0, max: scores.length - 1, now: place[axis], text: `slice ${slice}, ${here}` };
    for (const [key, one] of Object.entries(now)) strip.setAttribute("aria-value" + key, one);
    box.querySelectorAll(".ends span").forEach((end, n) => {
      end.textContent = `${ENDS[axis][n]}, slice ${fileSlice(axis, n * (scores.length - 1))}`;
    });
  }

  function go(axis, index) {
    place[axis] = within(axis, index);
    draw();
  }

  function resetWindow() {
    const [low, high] = shown.window;
    const values = shown.values;
    const [least, most] = [values[0], values[values.length - 1]];
    // Outliers would make the sliders too coarse.
    const limits = { level: [Math.max(least, 2 * low - high), Math.min(most, 2 * high - low)] };
    limits.width = [(high - low) / 100, 2 * (high - low)];
    for (const [name, ends] of Object.entries(limits)) [find(name).min, find(name).max] = ends;
    find("width").value = high - low;
    find("level").value = (low + high) / 2;
  }

  async function show(index) {
    box.dataset.ready = "";
    const { image, map, mask, ...rest } = volumes[index];
    const [first, second, third] = await Promise.all([image, map, mask].map(unpack));
    shown = { ...rest, image: first, map: second, mask: third };
    place = [...rest.start];
    find("case").value = index;
    find("mask").disabled = !mask;
    find("caption").textContent = rest.caption;
    find("worst").textContent = `Worst slice (${fileSlice(rest.strip.axis, place[rest.strip.axis])})`;
    resetWindow();
    box.hidden = false;
    draw();
    box.dataset.ready = "yes";
  }

  function enlarge(axis) {
    find("large").value = axis;
    find("planes").prepend(PLANES[axis].canvas.parentElement);
    if (shown) draw();
  }

  // A link #viewer-2 shows the second volume.
  async function follow() {
    const wanted = Number(/^#viewer-(\d+)$/.exec(location.hash)?.[1]) - 1;
    if (!(wanted in volumes)) return;
    await show(wanted);
    box.scrollIntoView();
    find("planes").querySelector("canvas").focus({ preventScroll: true });
  }

  // The planes as they lie on the page, and a line that says what they show.
  function save() {
    const outer = find("planes").getBoundingClientRect();
    const scale = devicePixelRatio;
    const [line, picture] = [18 * scale, document.createElement("canvas")];
    picture.width = outer.width * scale;
    const rects = PLANES.map(({ canvas }) => canvas.getBoundingClientRect());
    const bottom = Math.max(...rects.map((rect) => rect.bottom)) - outer.top;
    picture.height = bottom * scale + 2.5 * line;
    const context = picture.getContext("2d");
    context.fillRect(0, 0, picture.width, picture.height);
    PLANES.forEach(({ canvas }, n) => context.drawImage(
      canvas, (rects[n].left - outer.left) * scale, (rects[n].top - outer.top) * scale,
    ));
    context.fillStyle = "#ffffff";
    context.font = `${0.75 * line}px ${FONT}`;
    const settings = `Window ${number(value("width"))}, level ${number(value("level"))}, ` +
      `map from ${value("from").toFixed(1)} sd. AE-Flow, for research only.`;
    const words = [`${shown.name}: ${shown.caption}`, `${find("place").textContent} ${settings}`];
    words.forEach((one, n) =>
      context.fillText(one, line / 2, bottom * scale + (n + 1) * line, picture.width - line));
    picture.toBlob((blob) => {
      const link = document.createElement("a");
      const axis = shown.strip.axis;
      link.href = URL.createObjectURL(blob);
      link.download = `${shown.name}_${PLANES[axis].name}_${fileSlice(axis, place[axis])}.png`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  const PAGES = { PageUp: 1, PageDown: -1, Home: -Infinity, End: Infinity };

  function listenTo({ axis, across, down, canvas, slider }) {
    const arrows = {
      ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [down, 1], ArrowDown: [down, -1],
    };
    canvas.addEventListener("keydown", (event) => {
      const [moved, by] = arrows[event.key] ?? [axis, PAGES[event.key]];
      if (by === undefined) return;
      event.preventDefault();
      go(moved, place[moved] + by * (event.shiftKey ? 10 : 1));
    });
    canvas.addEventListener("wheel", (event) => {
      // Without the focus the wheel scrolls the page past the picture.
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      go(axis, place[axis] - Math.sign(event.deltaY));
    }, { passive: false });
    const point = (event) => {
      const windowing = event.buttons === 2 || (event.buttons === 1 && event.shiftKey);
      if (windowing) {
        const step = (shown.window[1] - shown.window[0]) / 300;
        find("width").value = value("width") + event.movementX * step;
        find("level").value = value("level") + event.movementY * step;
      } else if (event.buttons === 1) {
        const rect = canvas.getBoundingClientRect();
        const share = [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height];
        [across, down].forEach((n, side) => {
          place[n] = within(n, Math.floor((1 - share[side]) * shown.count[n]));
        });
      } else return;
      draw();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    slider.addEventListener("input", () => go(axis, Number(slider.value)));
  }

  function listen() {
    PLANES.forEach(listenTo);
    const strip = find("strip");
    strip.addEventListener("pointerdown", (event) => strip.setPointerCapture(event.pointerId));
    for (const kind of ["pointerdown", "pointermove"]) {
      strip.addEventListener(kind, (event) => {
        if (!(event.buttons & 1)) return;
        const rect = strip.getBoundingClientRect();
        const { axis, scores } = shown.strip;
        go(axis, Math.floor(((event.clientX - rect.left) / rect.width) * scores.length));
      });
    }
    strip.addEventListener("keydown", (event) => {
      const keys = { ...PAGES, ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
      if (!(event.key in keys)) return;
      event.preventDefault();
      go(shown.strip.axis, place[shown.strip.axis] + keys[event.key]);
    });
    for (const name of ["width", "level", "from", "opacity", "mask"]) {
      find(name).addEventListener("input", draw);
    }
    find("reset").addEventListener("click", () => { resetWindow(); draw(); });
    find("worst").addEventListener("click", () => { place = [...shown.start]; draw(); });
    find("save").addEventListener("click", save);
    find("large").addEventListener("input", () => enlarge(value("large")));
    find("case").addEventListener("input", () => show(value("case")));
    window.addEventListener("resize", draw);
    window.addEventListener("hashchange", follow);
    document.addEventListener("click", (event) => {
      // The same link again changes no address.
      if (event.target.closest("a")?.hash === location.hash) follow();
    });
  }

  enlarge(volumes[0].strip.axis);
  show(0).then(() => {
    listen();
    document.getElementById("viewer-still").classList.add("print-only");
    return follow();
  }).catch(() => { find("missing").hidden = false; });
})();
