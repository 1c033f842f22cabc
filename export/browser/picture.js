// A picture file as a model's pixels: turned upright, transparency on white, no colour management, as in training.
import { heightWidth } from "./model.js";
import { resizePicture } from "./resize.js";

/**
 * @param {Blob} file a picture in any format that this browser decodes
 * @param {number|number[]} size of the model's input: the side of a square, or height and width
 * @param {"stretch"|"crop"|"letterbox"} mode how the model learned from pictures of another shape
 * @returns {Promise<Uint8Array>} height * width * 3 bytes, RGB
 */
export async function pixelsOf(file, size, mode) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name || "this file"} is no picture that this browser can open`);
  }
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error(`a picture of ${width} x ${height} is too large for this browser`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const [toHeight, toWidth] = heightWidth(size);
  return resizePicture(context.getImageData(0, 0, width, height).data, width, height, toWidth, toHeight, mode);
}
