// ONNX Runtime by its C API. The API is one table of function pointers that only ever grows at its end, so that a place
// in it means the same in every version; the places below are those of onnxruntime_c_api.h since version 1.
#include <cstdlib>

#include "model.h"

namespace {

struct Api;  // the table
struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

enum Place {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSessionGetInputTypeInfo = 33,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithData = 49,
  kGetTensorMutableData = 51,
  kCastTypeInfoToTensorInfo = 55,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorShapeElementCount = 64,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kGetAllocatorWithDefaultOptions = 78,
  kReleaseStatus = 93,
  kReleaseValue = 96,
  kReleaseTensorTypeAndShapeInfo = 99,
};
constexpr uint32_t kApiVersion = 1;
constexpr int kFloat = 1, kUint8 = 2;
constexpr int kLogError = 3, kArenaAllocator = 1, kDefaultMemory = 0;

// Handles are opaque; the program keeps its model until it ends, so only what is made per image is released.
class OnnxModel : public Model {
 public:
  OnnxModel(const std::string& library, const std::string& path) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // it would report to its vendor, and leave files in the user's cache
    auto base = symbol<const ApiBase*()>(open_library(library), "OrtGetApiBase")();
    table_ = reinterpret_cast<void* const*>(base->get_api(kApiVersion));
    if (!table_) throw std::runtime_error("expected version 1 of ONNX Runtime's C API, but this library lacks it");
    void *env, *options, *type, *allocator;
    const void* shape;
    call(kCreateEnv, kLogError, "tledge", &env);
    call(kCreateSessionOptions, &options);
    call(kCreateSession, env, path.c_str(), options, &session_);
    call(kGetAllocatorWithDefaultOptions, &allocator);
    call(kSessionGetInputName, session_, size_t{0}, allocator, &input_name_);
    call(kSessionGetOutputName, session_, size_t{0}, allocator, &output_name_);
    call(kSessionGetInputTypeInfo, session_, size_t{0}, &type);
    call(kCastTypeInfoToTensorInfo, type, &shape);
    call(kGetTensorElementType, shape, &element_);
    size_t rank = 0;
    call(kGetDimensionsCount, shape, &rank);
    std::vector<int64_t> sizes(rank);
    call(kGetDimensions, shape, sizes.data(), rank);
    if (rank != 4 || sizes[1] < 1 || sizes[2] < 1 || sizes[3] != 3 || (element_ != kFloat && element_ != kUint8))
      throw std::runtime_error("expected a classifier of RGB images in " + path);
    height_ = sizes[1];
    width_ = sizes[2];
    call(kCreateCpuMemoryInfo, kArenaAllocator, kDefaultMemory, &memory_);
  }

  int height() const override { return static_cast<int>(height_); }
  int width() const override { return static_cast<int>(width_); }

  std::vector<float> classify(const std::vector<uint8_t>& pixels) override {
    std::vector<float> floats(pixels.begin(), pixels.end());
    const bool bytes = element_ == kUint8;
    void* data = bytes ? const_cast<uint8_t*>(pixels.data()) : static_cast<void*>(floats.data());
    const size_t size = pixels.size() * (bytes ? sizeof(uint8_t) : sizeof(float));
    const int64_t sizes[] = {1, height_, width_, 3};
    void *input, *output = nullptr, *shape;
    float* answers;
    size_t count = 0;
    call(kCreateTensorWithData, memory_, data, size, static_cast<const int64_t*>(sizes), size_t{4}, element_, &input);
    call(kRun, session_, nullptr, &input_name_, &input, size_t{1}, &output_name_, size_t{1}, &output);
    call(kGetTensorTypeAndShape, output, &shape);
    call(kGetTensorShapeElementCount, shape, &count);
    call(kGetTensorMutableData, output, &answers);
    std::vector<float> result(answers, answers + count);
    release(kReleaseTensorTypeAndShapeInfo, shape);
    release(kReleaseValue, input);
    release(kReleaseValue, output);
    return result;
  }

 private:
  // Every argument has the type of the C API's parameter: integers, size_t, pointers.
  template <typename... Arguments>
  void call(Place place, Arguments... arguments) {
    auto function = reinterpret_cast<void* (*)(Arguments...)>(table_[place]);
    if (void* status = function(arguments...)) {
      std::string message = reinterpret_cast<const char* (*)(void*)>(table_[kGetErrorMessage])(status);
      release(kReleaseStatus, status);
      throw std::runtime_error("ONNX Runtime refuses: " + message);
    }
  }
  void release(Place place, void* handle) { reinterpret_cast<void (*)(void*)>(table_[place])(handle); }

  void* const* table_;
  void *session_, *memory_;
  char *input_name_, *output_name_;
  int element_ = 0;
  int64_t height_ = 0, width_ = 0;
};

}  // namespace

std::unique_ptr<Model> open_onnx(const std::string& library, const std::string& model) {
  return std::make_unique<OnnxModel>(library, model);
}
