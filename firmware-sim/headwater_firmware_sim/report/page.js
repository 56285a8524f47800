"use strict";
// The cross-hair: the nearest values under a pointer, or with the arrow keys on a focused chart.
for (const figure of document.querySelectorAll("figure")) {
  const source = figure.querySelector('script[type="application/json"]');
  if (!source) continue;
  const data = JSON.parse(source.textContent);
  if (data.at.length === 0) continue;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  figure.append(tip);

  for (const svg of figure.querySelectorAll("svg")) {
    const left = Number(svg.dataset.left);
    const right = Number(svg.dataset.right);
    const cursor = svg.querySelector(".cursor");
    let index = -1;

    const hide = () => {
      tip.hidden = true;
      cursor.setAttribute("hidden", "");
      index = -1;
    };
    const show = (next) => {
      index = Math.max(0, Math.min(data.at.length - 1, next));
      const x = left + data.at[index] * (right - left);
      cursor.setAttribute("transform", `translate(${x} 0)`);
      cursor.removeAttribute("hidden");
      const head = document.createElement("b");
      head.textContent = `${data.x} ${data.labels[index]}`;
      const rows = data.names.flatMap((name, series) => {
        const value = data.values[index][series];
        if (value === null) return [];
        const row = document.createElement("div");
        const swatch = document.createElement("i");
        swatch.className = `c-${data.colours[series]}`;
        row.append(swatch, `${name}  ${value}`);
        return [row];
      });
      tip.replaceChildren(head, ...rows);
      tip.hidden = false;
      const drawn = svg.getBoundingClientRect();
      const card = figure.getBoundingClientRect();
      const at = drawn.left - card.left + (x / svg.viewBox.baseVal.width) * drawn.width;
      const room = card.width - tip.offsetWidth - 8;
      const beside = at + 14 > room ? at - 14 - tip.offsetWidth : at + 14;
      tip.style.left = `${Math.max(8, Math.min(room, beside))}px`;
      tip.style.top = `${drawn.top - card.top + 18}px`;
    };
    const nearest = (fraction) => {
      let best = 0;
      for (let i = 1; i < data.at.length; i += 1) {
        if (Math.abs(data.at[i] - fraction) < Math.abs(data.at[best] - fraction)) best = i;
      }
      return best;
    };
    const follow = (event) => {
      const drawn = svg.getBoundingClientRect();
      const x = ((event.clientX - drawn.left) / drawn.width) * svg.viewBox.baseVal.width;
      show(nearest((x - left) / (right - left)));
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1 };
      if (event.key in steps) {
        event.preventDefault();
        show(index + steps[event.key]);
      } else if (event.key === "Escape") {
        hide();
      }
    });
  }
}
