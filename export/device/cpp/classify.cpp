// classify LIBRARY MODEL LABELS IMAGE.rgb...
//
// Prints, for each image, its name, the index and name of its best class, and the probability, with tabs between.
// Exit codes: 0 done, 1 the runtime refused, 2 bad input or usage.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "model.h"

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

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::unique_ptr<Model> open_model(const std::string& library, const std::string& path) {
  open_file(path);
  if (ends_with(path, ".tflite")) return open_litert(library, path);
  if (ends_with(path, ".onnx") || ends_with(path, ".ort")) return open_onnx(library, path);
  throw BadInput("expected a .tflite, .onnx or .ort file, but got " + path);
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) throw BadInput("usage: classify LIBRARY MODEL LABELS IMAGE.rgb...");
  const auto labels = read_lines(arguments[2]);
  const auto model = open_model(arguments[0], arguments[1]);
  const size_t wanted = model->image_bytes();
  for (size_t i = 3; i < arguments.size(); ++i) {
    const auto pixels = read_bytes(arguments[i]);
    if (pixels.size() != wanted)
      throw BadInput("expected " + std::to_string(wanted) + " bytes of raw RGB in " + arguments[i] + ", but it has " +
                     std::to_string(pixels.size()));
    const auto answers = model->classify(pixels);
    if (answers.size() != labels.size())
      throw BadInput("expected " + std::to_string(answers.size()) + " labels, but " + arguments[2] + " has " +
                     std::to_string(labels.size()));
    const auto best = std::max_element(answers.begin(), answers.end());
    const auto index = static_cast<size_t>(best - answers.begin());
    std::printf("%s\t%zu\t%s\t%.6f\n", arguments[i].c_str(), index, labels[index].c_str(), *best);
  }
}

}  // namespace

int main(int count, char** values) {
  try {
    run({values + 1, values + count});
    return 0;
  } catch (const BadInput& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 1;
  }
}
