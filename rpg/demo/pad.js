// A drawing pad for one gray image. The page passes rows, columns and the largest gray level, and receives the pixels.
export default function ({ data, setStateValue, parentElement }) {
  const canvas = parentElement.querySelector("canvas");
  const clear = parentElement.querySelector("button");
  const { rows, columns, white } = data;
  const cell = Math.floor(240 / Math.max(rows, columns));
  canvas.width = columns * cell;
  canvas.height = rows * cell;
  const context = canvas.getContext("2d");
  canvas.pixels ??= new Array(rows * columns).fill(0);

  const show = () =>
    canvas.pixels.forEach((level, index) => {
      const gray = Math.round((255 * level) / white);
      context.fillStyle = `rgb(${gray},${gray},${gray})`;
      context.fillRect((index % columns) * cell, Math.floor(index / columns) * cell, cell, cell);
    });
  const add = (row, column, level) => {
    if (row < 0 || column < 0 || row >= rows || column >= columns) return;
    const index = row * columns + column;
    canvas.pixels[index] = Math.min(white, canvas.pixels[index] + level);
  };
  const paint = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    if (row === canvas.lastRow && column === canvas.lastColumn) return;
    canvas.lastRow = row;
    canvas.lastColumn = column;
    add(row, column, white);
    // Paint the neighbors a little, because a pen is softer than a pixel.
    for (const [down, right] of [[0, 1], [0, -1], [1, 0], [-1, 0]]) add(row + down, column + right, white / 8);
    show();
  };
  const done = () => {
    canvas.drawing = false;
    canvas.lastRow = canvas.lastColumn = undefined;
    setStateValue("pixels", canvas.pixels);
  };
  canvas.onpointerdown = (event) => {
    canvas.drawing = true;
    canvas.setPointerCapture(event.pointerId);
    paint(event);
  };
  canvas.onpointermove = (event) => canvas.drawing && paint(event);
  canvas.onpointerup = done;
  clear.onclick = () => {
    canvas.pixels.fill(0);
    show();
    done();
  };
  show();
}
