// LiteRT by the C API of libLiteRt.so, as ai-edge-litert 2.3 carries it (litert/c/*.h).
#include <cmath>
#include <cstring>

#include "model.h"

namespace {

using Handle = void*;
using Status = int;

// LiteRtRankedTensorType: its size and the places of what is read here are fixed by the API.
struct TensorType {
  int32_t element;
  uint32_t rank_and_flags;  // the rank in the lower seven bits
  int32_t sizes[8];
  uint32_t strides[8];
};
static_assert(sizeof(TensorType) == 72, "as LiteRT asserts it");
constexpr int kFloat32 = 1, kUint8 = 3, kInt8 = 9;

struct Quantization {
  float scale;
  int64_t zero_point;
};

enum LockMode : int { kRead = 0, kWrite = 1 };
constexpr int kCpu = 1;

void check(Status status, const char* what) {
  if (status) throw std::runtime_error(std::string("LiteRT refuses to ") + what + " (status " + std::to_string(status) + ")");
}

// Handles are opaque; the program keeps its model until it ends.
class LiteRtModel : public Model {
 public:
  LiteRtModel(const std::string& library, const std::string& path) : library_(open_library(library)) {
    Handle environment, model, options, signature, tensor;
    check(function<Status(int, const void*, Handle*)>("LiteRtCreateEnvironment")(0, nullptr, &environment), "start");
    check(function<Status(Handle, const char*, Handle*)>("LiteRtCreateModelFromFile")(environment, path.c_str(), &model),
          "read the model");
    check(function<Status(Handle*)>("LiteRtCreateOptions")(&options), "make options");
    check(function<Status(Handle, int)>("LiteRtSetOptionsHardwareAccelerators")(options, kCpu), "use the CPU");
    check(function<Status(Handle, Handle, Handle, Handle*)>("LiteRtCreateCompiledModel")(environment, model, options,
                                                                                         &compiled_),
          "compile the model");
    check(function<Status(Handle, size_t, Handle*)>("LiteRtGetModelSignature")(model, 0, &signature), "find a signature");

    using Getter = Status(Handle, size_t, Handle*);
    check(function<Getter>("LiteRtGetSignatureInputTensorByIndex")(signature, 0, &tensor), "find its input");
    input_ = buffer(environment, tensor, "LiteRtGetCompiledModelInputBufferRequirements", &input_type_);
    check(function<Getter>("LiteRtGetSignatureOutputTensorByIndex")(signature, 0, &tensor), "find its output");
    output_ = buffer(environment, tensor, "LiteRtGetCompiledModelOutputBufferRequirements", &output_type_);
    if (output_type_.element != kFloat32)
      check(function<Status(Handle, Quantization*)>("LiteRtGetPerTensorQuantization")(tensor, &quantization_),
            "tell its output's scale");
    const auto* sizes = input_type_.sizes;
    if ((input_type_.rank_and_flags & 127) != 4 || sizes[1] < 1 || sizes[2] < 1 || sizes[3] != 3 ||
        (input_type_.element != kFloat32 && input_type_.element != kUint8 && input_type_.element != kInt8))
      throw std::runtime_error("expected a classifier of RGB images in " + path);
  }

  int height() const override { return input_type_.sizes[1]; }
  int width() const override { return input_type_.sizes[2]; }

  std::vector<float> classify(const std::vector<uint8_t>& pixels) override {
    std::vector<float> floats(pixels.begin(), pixels.end());
    std::vector<uint8_t> bytes = pixels;
    if (input_type_.element == kInt8)
      for (uint8_t& byte : bytes) byte ^= 128;  // less 128, as a signed byte
    if (input_type_.element != kFloat32)
      std::memcpy(lock(input_, kWrite), bytes.data(), bytes.size());
    else
      std::memcpy(lock(input_, kWrite), floats.data(), floats.size() * sizeof(float));
    unlock(input_);
    check(function<Status(Handle, size_t, size_t, Handle*, size_t, Handle*)>("LiteRtRunCompiledModel")(
              compiled_, 0, 1, &input_, 1, &output_),
          "run");
    std::vector<float> result(static_cast<size_t>(output_type_.sizes[1]));
    const void* answers = lock(output_, kRead);
    for (size_t i = 0; i < result.size(); ++i) {
      if (output_type_.element == kFloat32)
        result[i] = static_cast<const float*>(answers)[i];
      else
        result[i] = ((output_type_.element == kUint8 ? static_cast<const uint8_t*>(answers)[i]
                                                     : static_cast<const int8_t*>(answers)[i]) -
                     quantization_.zero_point) *
                    quantization_.scale;
    }
    unlock(output_);
    return result;
  }

 private:
  template <typename Signature>
  Signature* function(const char* name) {
    return symbol<Signature>(library_, name);
  }

  Handle buffer(Handle environment, Handle tensor, const char* requirements_of, TensorType* type) {
    Handle requirements, made;
    check(function<Status(Handle, TensorType*)>("LiteRtGetRankedTensorType")(tensor, type), "tell a tensor's type");
    check(function<Status(Handle, size_t, size_t, Handle*)>(requirements_of)(compiled_, 0, 0, &requirements),
          "tell what a buffer needs");
    check(function<Status(Handle, const TensorType*, Handle, Handle*)>("LiteRtCreateManagedTensorBufferFromRequirements")(
              environment, type, requirements, &made),
          "make a buffer");
    return made;
  }

  void* lock(Handle tensor_buffer, LockMode mode) {
    void* address;
    check(function<Status(Handle, void**, int)>("LiteRtLockTensorBuffer")(tensor_buffer, &address, mode), "lock a buffer");
    return address;
  }

  void unlock(Handle tensor_buffer) {
    check(function<Status(Handle)>("LiteRtUnlockTensorBuffer")(tensor_buffer), "unlock a buffer");
  }

  void* library_;
  Handle compiled_, input_, output_;
  TensorType input_type_{}, output_type_{};
  Quantization quantization_{1.0f, 0};
};

}  // namespace

std::unique_ptr<Model> open_litert(const std::string& library, const std::string& model) {
  return std::make_unique<LiteRtModel>(library, model);
}
