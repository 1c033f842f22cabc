// A classifier of raw RGB pixels, whatever runs it.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

class Model {
 public:
  virtual ~Model() = default;
  // Of the model's input, in pixels.
  virtual int height() const = 0;
  virtual int width() const = 0;
  // Probabilities for height x width x 3 bytes, rows from the top, RGB.
  virtual std::vector<float> classify(const std::vector<uint8_t>& pixels) = 0;
};

// `library` is the path of libLiteRt.so or libonnxruntime.so. They throw std::runtime_error.
std::unique_ptr<Model> open_litert(const std::string& library, const std::string& model);
std::unique_ptr<Model> open_onnx(const std::string& library, const std::string& model);

inline void* open_library(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error("expected a runtime's library, but " + std::string(dlerror()));
  return handle;
}

// A function of a library, as a pointer of its type.
template <typename Function>
Function* symbol(void* handle, const char* name) {
  void* address = dlsym(handle, name);
  if (!address) throw std::runtime_error("expected " + std::string(name) + " in the library, but it is not there");
  return reinterpret_cast<Function*>(address);
}
