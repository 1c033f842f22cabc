// Resize pictures as the models of a kit learned from them: Pillow 13's antialiased bilinear filter, to the last bit.
// Source: Pillow's Resample.c (8 bits per channel). Needs C++14 and nothing else; a picture and two copies in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tledge {

enum class Resize { kStretch, kCrop, kLetterbox };

inline Resize resize_mode(const std::string& name) {
  if (name == "stretch") return Resize::kStretch;
  if (name == "crop") return Resize::kCrop;
  if (name == "letterbox") return Resize::kLetterbox;
  throw std::invalid_argument("expected stretch, crop or letterbox, but got " + name);
}

// Rows from the top, RGB, one byte each.
struct Picture {
  int height, width;
  std::vector<uint8_t> rgb;
};

namespace resize_parts {

// length * wanted / of, rounded, halves up; at least 1.
inline int in_proportion(int64_t length, int64_t wanted, int64_t of) {
  return static_cast<int>(std::max<int64_t>(1, (2 * length * wanted + of) / (2 * of)));
}

// One pass along one axis: `lines` lines, steps between values in bytes.
inline void pass(const uint8_t* from, uint8_t* to, int in_size, int out_size, int lines, size_t in_step, size_t in_line,
                 size_t out_step, size_t out_line) {
  constexpr int kBits = 22;  // 32 less 8 of a pixel and 2 spare
  const double scale = static_cast<double>(in_size) / out_size;
  const double support = std::max(scale, 1.0);  // the triangle's half width, wider where the picture shrinks
  std::vector<double> exact;
  std::vector<int32_t> weights;
  for (int out = 0; out < out_size; ++out) {
    const double center = (out + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int last = std::min(static_cast<int>(center + support + 0.5), in_size);
    double sum = 0;
    exact.clear();
    weights.clear();
    for (int in = first; in < last; ++in) {
      exact.push_back(std::max(0.0, 1.0 - std::fabs((in - center + 0.5) * (1.0 / support))));
      sum += exact.back();
    }
    for (double weight : exact) weights.push_back(static_cast<int32_t>(0.5 + weight / sum * (1 << kBits)));
    for (int line = 0; line < lines; ++line) {
      const uint8_t* source = from + first * in_step + line * in_line;
      uint8_t* target = to + out * out_step + line * out_line;
      for (int channel = 0; channel < 3; ++channel) {
        int32_t value = 1 << (kBits - 1);
        for (size_t i = 0; i < weights.size(); ++i) value += source[i * in_step + channel] * weights[i];
        target[channel] = static_cast<uint8_t>(std::min(value >> kBits, 255));
      }
    }
  }
}

inline Picture stretch(Picture picture, int height, int width) {
  const auto across = [&] {
    if (picture.width == width) return;
    Picture narrow{picture.height, width, std::vector<uint8_t>(size_t{3} * picture.height * width)};
    pass(picture.rgb.data(), narrow.rgb.data(), picture.width, width, picture.height, 3, size_t{3} * picture.width, 3,
         size_t{3} * width);
    picture = std::move(narrow);
  };
  const auto down = [&] {
    if (picture.height == height) return;
    Picture low{height, picture.width, std::vector<uint8_t>(size_t{3} * height * picture.width)};
    const size_t row = size_t{3} * picture.width;
    pass(picture.rgb.data(), low.rgb.data(), picture.height, height, picture.width, row, 3, row, 3);
    picture = std::move(low);
  };
  // Rounded to bytes between the passes, so their order shows.
  if (picture.height > height && picture.height - height > 2 * (picture.width - width)) {
    down();
    across();
  } else {
    across();
    down();
  }
  return picture;
}

}  // namespace resize_parts

// stretch squeezes the picture to the model's shape, crop keeps the largest part of that shape in the middle, letterbox
// keeps all of it between black bars.
inline Picture resize_picture(const Picture& picture, int height, int width, Resize mode) {
  using namespace resize_parts;
  const bool tall = static_cast<int64_t>(picture.height) * width > static_cast<int64_t>(height) * picture.width;
  if (mode == Resize::kStretch) return stretch(picture, height, width);
  if (mode == Resize::kCrop) {
    const int rows = tall ? in_proportion(picture.width, height, width) : picture.height;
    const int columns = tall ? picture.width : in_proportion(picture.height, width, height);
    const int top = (picture.height - rows) / 2, left = (picture.width - columns) / 2;
    Picture kept{rows, columns, {}};
    for (int row = 0; row < rows; ++row) {
      const auto begin = picture.rgb.begin() + (static_cast<int64_t>(top + row) * picture.width + left) * 3;
      kept.rgb.insert(kept.rgb.end(), begin, begin + int64_t{3} * columns);
    }
    return stretch(std::move(kept), height, width);
  }
  const int rows = tall ? height : in_proportion(width, picture.height, picture.width);
  const int columns = tall ? in_proportion(height, picture.width, picture.height) : width;
  const int top = (height - rows) / 2, left = (width - columns) / 2;
  const Picture small = stretch(picture, rows, columns);
  Picture whole{height, width, std::vector<uint8_t>(size_t{3} * height * width)};
  for (int row = 0; row < rows; ++row)
    std::copy_n(small.rgb.begin() + int64_t{3} * row * columns, int64_t{3} * columns,
                whole.rgb.begin() + (static_cast<int64_t>(top + row) * width + left) * 3);
  return whole;
}

}  // namespace tledge
