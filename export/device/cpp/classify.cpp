// classify LIBRARY MODEL LABELS IMAGE...
//
// An image is a .rgb file, raw pixels of exactly the model's size, or a .ppm file (P6) of any size, which is resized as in
// training. Prints, for each image, its name, the index and name of its best class, and the probability, with tabs between.
// Exit codes: 0 done, 1 the runtime refused, 2 bad input or usage.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>

#include "model.h"
#include "resize_mode.h"

namespace {

struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::ifstream open_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  stream.peek();  // a folder can be opened, but not read
  if (!stream.is_open() || stream.bad()) throw BadInput("expected a file, but " + path + " cannot be read");
  return stream;
}

std::vector<uint8_t> read_bytes(const std::string& path) {
  auto stream = open_file(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> read_lines(const std::string& path) {
  auto stream = open_file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Binary PPM: P6, width, height and 255, with white space and comments between, then pixels.
tledge::Picture read_ppm(const std::string& path) {
  auto stream = open_file(path);
  const auto number = [&] {
    int value = 0;
    while ((stream >> std::ws).peek() == '#') stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    stream >> value;
    return value;
  };
  char magic[2] = {};
  stream.read(magic, 2);
  const int width = number(), height = number(), top = number();
  stream.get();
  if (magic[0] != 'P' || magic[1] != '6' || !stream || width < 1 || height < 1 || top != 255)
    throw BadInput("expected a binary PPM image of 8 bits (P6 and 255), but " + path + " is none");
  tledge::Picture picture{height, width, {std::istreambuf_iterator<char>(stream), {}}};
  const size_t wanted = size_t{3} * height * width;
  if (picture.rgb.size() != wanted)
    throw BadInput("expected " + std::to_string(wanted) + " bytes of pixels in " + path + ", but it has " +
                   std::to_string(picture.rgb.size()));
  return picture;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::unique_ptr<Model> open_model(const std::string& library, const std::string& path) {
  open_file(path);
  if (ends_with(path, ".tflite")) return open_litert(library, path);
  if (ends_with(path, ".onnx") || ends_with(path, ".ort")) return open_onnx(library, path);
  throw BadInput("expected a .tflite, .onnx or .ort file, but got " + path);
}

// Control characters, what shows text in another order than it has or not at all, halves of characters.
bool is_hidden(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c || code == 0x200b || code == 0x200e ||
         code == 0x200f || (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x2069) || code == 0xfeff ||
         (code >= 0xd800 && code < 0xe000) || code > 0x10ffff;
}

// A name for one line of a terminal: what would be a command to it is written out, and so is what is no UTF-8.
std::string visible(const std::string& text) {
  std::string shown;
  char written[16];
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i]);
    const size_t length = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t code = length < 2 ? first : first & (0xffu >> (length + 1));
    bool is_whole = length > 0 && i + length <= text.size();
    for (size_t k = 1; is_whole && k < length; ++k) {
      is_whole = (static_cast<uint8_t>(text[i + k]) & 0xc0) == 0x80;
      code = code << 6 | (static_cast<uint8_t>(text[i + k]) & 0x3f);
    }
    const size_t taken = is_whole ? length : 1;
    if (is_whole && !is_hidden(code)) {
      shown.append(text, i, taken);
    } else {
      std::snprintf(written, sizeof written, is_whole && code > 0xff ? "\\u%04x" : "\\x%02x", is_whole ? code : first);
      shown += written;
    }
    i += taken;
  }
  return shown;
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) throw BadInput("usage: classify LIBRARY MODEL LABELS IMAGE...");
  const auto labels = read_lines(arguments[2]);
  const auto model = open_model(arguments[0], arguments[1]);
  const int height = model->height(), width = model->width();
  const size_t wanted = size_t{3} * height * width;
  for (size_t i = 3; i < arguments.size(); ++i) {
    const auto pixels = ends_with(arguments[i], ".ppm")
                            ? tledge::resize_picture(read_ppm(arguments[i]), height, width, tledge::kResize).rgb
                            : read_bytes(arguments[i]);
    if (pixels.size() != wanted)
      throw BadInput("expected " + std::to_string(wanted) + " bytes of raw RGB in " + arguments[i] + ", but it has " +
                     std::to_string(pixels.size()));
    const auto answers = model->classify(pixels);
    if (answers.size() != labels.size())
      throw BadInput("expected " + std::to_string(answers.size()) + " labels, but " + arguments[2] + " has " +
                     std::to_string(labels.size()));
    const auto best = std::max_element(answers.begin(), answers.end());
    const auto index = static_cast<size_t>(best - answers.begin());
    const auto name = visible(arguments[i]), label = visible(labels[index]);
    std::printf("%s\t%zu\t%s\t%.6f\n", name.c_str(), index, label.c_str(), *best);
  }
}

}  // namespace

int main(int count, char** values) {
  try {
    run({values + 1, values + count});
    return 0;
  } catch (const BadInput& error) {
    std::fprintf(stderr, "classify: %s\n", visible(error.what()).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", visible(error.what()).c_str());
    return 1;
  }
}
