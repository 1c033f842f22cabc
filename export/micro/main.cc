// Runs the model in LiteRT Micro on the test images of this kit and compares the answers, byte by byte, with those that
// the same interpreter gave on the computer that made it. A project of yours takes the same steps with its own pixels.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "golden.h"
#include "model_data.h"
#include "model_settings.h"
#include "resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

// Kernels made for one processor may want more memory than the reference kernels that were measured.
#ifndef TLEDGE_ARENA_BYTES
#define TLEDGE_ARENA_BYTES tledge::kArenaBytes
#endif

namespace {

alignas(16) uint8_t arena[TLEDGE_ARENA_BYTES];

int value(unsigned char byte) { return tledge::kIsSigned ? static_cast<signed char>(byte) : byte; }

int largest(const unsigned char* answer) {
  int best = 0;
  for (int i = 1; i < tledge::kClasses; ++i)
    if (value(answer[i]) > value(answer[best])) best = i;
  return best;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(tledge_model);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    MicroPrintf("the model has another schema version than the interpreter");
    return 2;
  }
  static tledge::Resolver resolver;
  if (tledge::AddOperators(resolver) != kTfLiteOk) return 2;
  static tflite::MicroInterpreter interpreter(model, resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("an arena of %d bytes is too small here: build with -DTLEDGE_ARENA_BYTES=...",
                static_cast<int>(sizeof(arena)));
    return 2;
  }
  MicroPrintf("arena: %d of %d bytes stay in use", static_cast<int>(interpreter.arena_used_bytes()),
              static_cast<int>(sizeof(arena)));

  bool passed = true;
  for (int image = 0; image < tledge::kGoldenImages; ++image) {
    std::memcpy(interpreter.input(0)->data.raw, tledge_golden_inputs[image], tledge::kInputBytes);
    if (interpreter.Invoke() != kTfLiteOk) return 2;
    const auto* answer = reinterpret_cast<const unsigned char*>(interpreter.output(0)->data.raw);
    const unsigned char* expected = tledge_golden_outputs[image];
    int difference = 0;
    for (int i = 0; i < tledge::kClasses; ++i) {
      const int here = std::abs(value(answer[i]) - value(expected[i]));
      if (here > difference) difference = here;
    }
    const bool same = largest(answer) == largest(expected) && difference <= tledge::kTolerance;
    passed = passed && same;
    MicroPrintf("image %d: %s, largest difference %d of 255: %s", image, tledge::kLabels[largest(answer)], difference,
                same ? "ok" : "WRONG");
  }
  MicroPrintf(passed ? "every answer is as expected" : "answers are not as expected");
  return passed ? 0 : 1;
}
