// A page element as a widget: its value is kept in the workflow and never sent to the server.

/**
 * @param node the node that gets the widget
 * @param name name of the input that the widget stands for
 * @param kind a word of ours for its type
 * @param element what is shown
 * @param height () => pixels that it wants
 * @param draw (value: string) => void, called whenever the value changes
 */
export function elementWidget(node, name, kind, element, height, draw) {
  let value = "";
  const set = (next) => {
    value = typeof next === "string" ? next : "";
    draw(value);
  };
  const widget = node.addDOMWidget(name, kind, element, {
    getValue: () => value,
    setValue: set,
    getMinHeight: height,
    serialize: false,
    hideOnZoom: false,
  });
  // Wheel and drag inside the element are its own, not the graph's.
  for (const event of ["pointerdown", "wheel"]) {
    element.addEventListener(event, (e) => e.stopPropagation(), { passive: true });
  }
  return widget;
}

/** Calls `then(output)` after every run of the node, beside whatever else listens. */
export function afterRun(node, then) {
  const others = node.onExecuted;
  node.onExecuted = function (output, ...rest) {
    others?.call(this, output, ...rest);
    then(output ?? {});
  };
}

/** Makes room for a widget whose wish for height has changed. */
export function refit(node) {
  const wanted = node.computeSize();
  const size = [Math.max(node.size[0], wanted[0]), Math.max(node.size[1], wanted[1])];
  if (size[0] !== node.size[0] || size[1] !== node.size[1]) node.setSize(size);
  node.setDirtyCanvas?.(true, true);
}

/** Reads a value that we wrote; anything else counts as nothing. */
export function parsed(value) {
  try {
    return value ? JSON.parse(value) : null;
  } catch {
    return null;
  }
}
