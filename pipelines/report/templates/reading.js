"use strict";
(() => {
  const find = (name) => document.getElementById("reading-" + name);
  const data = JSON.parse(find("data").textContent);
  const { fields, rows, viewed } = data;
  const place = new Map(fields.map((field, index) => [field.name, index]));
  const pictures = new Map(data.pictures.map((picture, index) => [rows[index], picture]));
  const columns = fields.filter((field) => field.title);
  const [list, table] = [find("list"), find("table")];
  const [head, body] = [table.tHead, table.tBodies[0]];
  const pattern = body.rows[0].cloneNode(true);
  const SPARE = 6; // rows ready above and below those in view
  let shown = rows; // as filtered and sorted
  let made = new Map(); // the lines of the table, by their rows
  let drawn = []; // what they were made for
  let [current, height] = [0, 1];

  const is = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const coded = (field) => Object.keys(field.words).length > 0;

  function tell(field, value) {
    if (value === "" || coded(field)) return field.words[value] ?? "";
    return field.before + (field.digits === null ? value : value.toFixed(field.digits));
  }

  function make(row) {
    const line = pattern.cloneNode(true);
    const [name, ...cells] = line.querySelectorAll("th, td:not(.picture)");
    const src = "data:image/jpeg;base64," + pictures.get(row);
    const image = pictures.get(row) ? is("img", { src, alt: row[0] + " with its anomaly map" }) : "";
    line.querySelector(".picture")?.replaceChildren(image);
    line.classList.toggle("marked", row[place.get("flagged")] === 1);
    Object.assign(name.querySelector("span"), { textContent: row[0], title: row[0] });
    name.querySelector("a")?.remove();
    const number = viewed.indexOf(row[0]) + 1;
    const href = number ? "#viewer-" + number : `panels/${encodeURIComponent(row[0])}.png`;
    if (number || data.panels) {
      name.append(" ", is("a", { href, textContent: number ? "in the viewer" : "panel" }));
    }
    columns.slice(1).forEach((field, index) => {
      const remark = fields[place.get(field.remark)];
      const told = remark && tell(remark, row[place.get(field.remark)]);
      cells[index].textContent = tell(field, row[place.get(field.name)]) || "–";
      if (told) cells[index].append(" ", is("small", { textContent: told }));
    });
    return line;
  }

  function space(count) {
    const line = is("tr", { className: "space" });
    line.setAttribute("aria-hidden", "true");
    line.style.height = count * height + "px";
    line.append(is("td"));
    return line;
  }

  // Puts the rows from one to another into the table, and room for all others around them.
  function draw(from, to) {
    if ([shown, from, to].every((one, index) => one === drawn[index])) return mark();
    drawn = [shown, from, to];
    const held = body.contains(document.activeElement) && document.activeElement;
    made = new Map(shown.slice(from, to).map((row) => [row, made.get(row) ?? make(row)]));
    [...made.values()].forEach((line, index) => {
      line.dataset.index = from + index;
      line.setAttribute("aria-rowindex", from + index + 2);
    });
    body.replaceChildren(space(from), ...made.values(), space(shown.length - to));
    mark();
    if (held) (body.contains(held) ? held : made.get(shown[current]))?.focus({ preventScroll: true });
  }

  // One row at a time can be reached by Tab.
  function mark() {
    for (const [row, line] of made) line.tabIndex = row === shown[current] ? 0 : -1;
  }

  function drawView() {
    const first = Math.floor(list.scrollTop / height);
    const inside = list.clientHeight - head.offsetHeight;
    const end = Math.min(shown.length, Math.ceil((list.scrollTop + inside) / height));
    current = Math.max(first, Math.min(end - 1, current));
    draw(Math.max(0, first - SPARE), Math.min(shown.length, end + SPARE));
  }

  function go(index) {
    current = Math.max(0, Math.min(shown.length - 1, index));
    const lowest = (current + 1) * height + head.offsetHeight - list.clientHeight;
    list.scrollTop = Math.max(lowest, Math.min(current * height, list.scrollTop));
    drawView();
    made.get(shown[current]).focus({ preventScroll: true });
  }

  // All rows are equally high; how high depends on the width of the page.
  function measure() {
    const line = body.querySelector("tr:not(.space)");
    if (line) height = line.getBoundingClientRect().height;
    drawn = [];
    drawView();
  }

  function choose() {
    const wanted = find("search").value.trim().toLowerCase();
    const ticked = [...find("controls").querySelectorAll(":checked")];
    const texts = fields.filter((field) => field.digits === null && !coded(field));
    shown = rows.filter(
      (row) =>
        ticked.every((box) => row[place.get(box.name)] === Number(box.value)) &&
        texts.some((field) => String(row[place.get(field.name)]).toLowerCase().includes(wanted)),
    );
    find("count").textContent = `${shown.length} of ${rows.length} cases`;
    table.setAttribute("aria-rowcount", shown.length + 1);
    list.scrollTop = current = 0;
    drawView();
  }

  function sort(field, own) {
    const first = field.ascending ? "ascending" : "descending";
    const second = field.ascending ? "descending" : "ascending";
    const order = own.getAttribute("aria-sort") === first ? second : first;
    const words = new Intl.Collator(undefined, { numeric: true });
    const index = place.get(field.name);
    rows.sort((one, other) => {
      const [a, b] = order === "ascending" ? [one[index], other[index]] : [other[index], one[index]];
      if (one[index] === "" || other[index] === "") return (one[index] === "") - (other[index] === "");
      return typeof a === "number" ? a - b : words.compare(a, b);
    });
    for (const cell of head.rows[0].cells) cell.removeAttribute("aria-sort");
    own.setAttribute("aria-sort", order);
    choose();
  }

  function save() {
    const quoted = (value) => '"' + String(value).replaceAll('"', '""') + '"';
    const lines = [fields.map((field) => field.name), ...shown];
    const text = lines.map((cells) => cells.map(quoted).join(",") + "\r\n").join("");
    const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    is("a", { href, download: "reading_list.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  }

  function press(event) {
    const page = Math.max(1, Math.floor((list.clientHeight - head.offsetHeight) / height) - 1);
    const steps = {
      ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
    };
    if (event.key === "Enter" && event.target.matches("tr")) event.target.querySelector("a")?.click();
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(current + steps[event.key]);
  }

  function listen() {
    [...head.querySelectorAll("th:not(.picture)")].forEach((own, index) => {
      const button = is("button", { type: "button", textContent: columns[index].title });
      button.addEventListener("click", () => sort(columns[index], own));
      own.replaceChildren(button);
    });
    body.addEventListener("keydown", press);
    body.addEventListener("focusin", (event) => {
      const line = event.target.closest("tr");
      const name = line.querySelector("span");
      line.classList.toggle("long", name.scrollHeight > name.clientHeight);
      current = Number(line.dataset.index);
      mark();
    });
    list.addEventListener("scroll", drawView);
    find("search").addEventListener("input", choose);
    find("controls").addEventListener("change", (event) => event.target.type === "checkbox" && choose());
    find("save").addEventListener("click", save);
    addEventListener("resize", measure);
    addEventListener("beforeprint", () => draw(0, Math.min(data.most_plain, shown.length)));
    addEventListener("afterprint", drawView);
  }

  listen();
  table.setAttribute("role", "grid");
  list.tabIndex = -1;
  list.classList.add("live");
  find("controls").hidden = find("help").hidden = false;
  find("plain")?.classList.add("print-only");
  measure();
  choose();
})();
