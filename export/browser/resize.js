// Bring a picture to a model's input with Pillow's antialiased bilinear filter, to the last bit: the canvas of a browser
// resizes with other filters, and answers depend on that. Source: Pillow's Resample.c (8 bits per channel).

const PRECISION_BITS = 22; // 32 bits less 8 of a pixel and 2 spare
const HALF = 1 << (PRECISION_BITS - 1);

// For each output position: first input position, number of them, and their weights in fixed point.
function coefficients(inSize, outSize) {
  const scale = inSize / outSize;
  const support = Math.max(scale, 1); // the triangle's half width, stretched where the picture shrinks
  const width = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(outSize), counts = new Int32Array(outSize);
  const weights = new Int32Array(outSize * width);
  const exact = new Float64Array(width);
  for (let out = 0; out < outSize; out++) {
    const center = (out + 0.5) * scale;
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.trunc(center + support + 0.5), inSize) - start;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      exact[i] = Math.max(0, 1 - Math.abs((i + start - center + 0.5) * (1 / support)));
      sum += exact[i];
    }
    for (let i = 0; i < count; i++) {
      weights[out * width + i] = Math.trunc(0.5 + (sum === 0 ? 0 : exact[i] / sum) * (1 << PRECISION_BITS));
    }
    starts[out] = start;
    counts[out] = count;
  }
  return { starts, counts, weights, width };
}

// One pass along one axis: `lines` lines of `outSize` outputs, each of `channels` values.
function pass(from, to, table, outSize, lines, channels, inStep, inLine, outStep, outLine) {
  const { starts, counts, weights, width } = table;
  for (let out = 0; out < outSize; out++) {
    const start = starts[out], count = counts[out], first = out * width;
    for (let line = 0; line < lines; line++) {
      const source = start * inStep + line * inLine, target = out * outStep + line * outLine;
      for (let channel = 0; channel < channels; channel++) {
        let sum = HALF;
        for (let i = 0; i < count; i++) sum += from[source + i * inStep + channel] * weights[first + i];
        const value = sum >> PRECISION_BITS;
        to[target + channel] = value < 0 ? 0 : value > 255 ? 255 : value;
      }
    }
  }
}

// RGB pixels squeezed to exactly this size.
function stretch(pixels, width, height, toWidth, toHeight) {
  let columns = width, rows = height;
  const across = () => {
    const narrow = new Uint8Array(toWidth * rows * 3);
    pass(pixels, narrow, coefficients(width, toWidth), toWidth, rows, 3, 3, width * 3, 3, toWidth * 3);
    [pixels, columns] = [narrow, toWidth];
  };
  const down = () => {
    const short = new Uint8Array(columns * toHeight * 3);
    pass(pixels, short, coefficients(height, toHeight), toHeight, columns, 3, columns * 3, 3, columns * 3, 3);
    [pixels, rows] = [short, toHeight];
  };
  // Rounded to bytes between the passes; an axis of the right size is left. Tall pictures shrink downwards first since
  // Pillow 13; in the other order, which older ones take, single values differ by 1 of 255.
  const tall = height > toHeight && height - toHeight > 2 * (width - toWidth);
  for (const step of tall ? [down, across] : [across, down]) {
    if (step === across ? width !== toWidth : height !== toHeight) step();
  }
  return pixels;
}

// length * wanted / of, rounded, halves up; at least 1.
const inProportion = (length, wanted, of) => Math.max(1, Math.floor((2 * length * wanted + of) / (2 * of)));

// The part of RGBA pixels that begins at left and top, without its fourth channel.
function rgbOf(rgba, width, left, top, columns, rows) {
  const pixels = new Uint8Array(columns * rows * 3);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0, j = ((top + row) * width + left) * 4; column < columns; column++, i += 3, j += 4) {
      pixels[i] = rgba[j];
      pixels[i + 1] = rgba[j + 1];
      pixels[i + 2] = rgba[j + 2];
    }
  }
  return pixels;
}

/**
 * Pixels for a model.
 * @param {Uint8Array|Uint8ClampedArray} rgba width * height * 4 bytes, opaque
 * @param {number} width
 * @param {number} height
 * @param {number} toWidth
 * @param {number} toHeight
 * @param {"stretch"|"crop"|"letterbox"} mode squeezed; the largest part of the model's shape in the middle; all of it
 *   between black bars
 * @returns {Uint8Array} toHeight * toWidth * 3 bytes, RGB
 */
export function resizePicture(rgba, width, height, toWidth, toHeight, mode = "stretch") {
  const tall = height * toWidth > toHeight * width; // taller than the model's shape
  if (mode === "stretch") return stretch(rgbOf(rgba, width, 0, 0, width, height), width, height, toWidth, toHeight);
  if (mode === "crop") {
    const columns = tall ? width : inProportion(height, toWidth, toHeight);
    const rows = tall ? inProportion(width, toHeight, toWidth) : height;
    const kept = rgbOf(rgba, width, (width - columns) >> 1, (height - rows) >> 1, columns, rows);
    return stretch(kept, columns, rows, toWidth, toHeight);
  }
  if (mode !== "letterbox") throw new Error(`expected stretch, crop or letterbox, but got ${mode}`);
  const columns = tall ? inProportion(toHeight, width, height) : toWidth;
  const rows = tall ? toHeight : inProportion(toWidth, height, width);
  const small = stretch(rgbOf(rgba, width, 0, 0, width, height), width, height, columns, rows);
  const whole = new Uint8Array(toWidth * toHeight * 3);
  const left = (toWidth - columns) >> 1, top = (toHeight - rows) >> 1;
  for (let row = 0; row < rows; row++) {
    whole.set(small.subarray(row * columns * 3, (row + 1) * columns * 3), ((top + row) * toWidth + left) * 3);
  }
  return whole;
}
