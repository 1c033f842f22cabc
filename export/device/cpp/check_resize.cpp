// check_resize VECTORS: compares resize.h with the pixels that Pillow made; 0 if all are equal.
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "resize.h"

namespace {

std::vector<uint8_t> bytes_of(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

}  // namespace

int main(int count, char** values) {
  std::ifstream stream(count > 1 ? values[1] : "resize_vectors.txt");
  std::string mode, given, expected;
  int rows, columns, height, width, pictures = 0, worst = 0;
  while (stream >> mode >> rows >> columns >> height >> width >> given >> expected) {
    const auto found = tledge::resize_picture({rows, columns, bytes_of(given)}, height, width, tledge::resize_mode(mode));
    const auto wanted = bytes_of(expected);
    if (found.rgb.size() != wanted.size()) return 1;
    for (size_t i = 0; i < wanted.size(); ++i) worst = std::max(worst, std::abs(found.rgb[i] - wanted[i]));
    ++pictures;
  }
  std::printf("%d pictures, largest difference %d of 255\n", pictures, worst);
  return pictures == 0 || worst > 0;
}
