// SPDX-License-Identifier: Apache-2.0
// Runs records of a bundle with one word changed each, on the HLS C++ under g++. Usage: forged_records BUNDLE, with
// lines "record word value count" on standard input: the record to change, and how many records up to it to run. Prints
// per line what the accelerator returned and whether it wrote to the activation memory.
#include <sys/mman.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "yhw_accel.h"
#include "yhw_network.h"

namespace {

// All that 32-bit offsets reach, and what lies behind the last of them: a record that fits may lead anywhere in it.
constexpr size_t kMemory = (size_t(1) << 32) + (size_t(1) << 26);

uint8_t* reserve() {
  void* memory = mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::vector<uint8_t> data;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  for (int byte; file != nullptr && (byte = std::fgetc(file)) != EOF;) {
    data.push_back(static_cast<uint8_t>(byte));
  }
  if (file != nullptr) {
    std::fclose(file);
  }
  return data;
}

}  // namespace

int main(int argc, char** argv) {
  uint8_t* params = reserve();
  uint8_t* activations = reserve();
  if (argc != 2 || params == nullptr || activations == nullptr) {
    return 2;
  }
  const std::string bundle = argv[1];
  const std::vector<uint8_t> image = read_file(bundle + "/ddr/params.bin");
  const std::vector<uint8_t> records = read_file(bundle + "/ddr/descriptors.bin");
  std::memcpy(params, image.data(), image.size());
  std::vector<uint8_t> noise(YHW_ACTIVATION_BYTES);
  for (size_t i = 0; i < noise.size(); ++i) {
    noise[i] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 2654435761u >> 24);
  }
  int record, word, count;
  int64_t value;
  while (std::scanf("%d %d %" SCNd64 " %d", &record, &word, &value, &count) == 4) {
    std::vector<int32_t> words(records.size() / 4);
    std::memcpy(words.data(), records.data(), records.size());
    words[static_cast<size_t>(record) * YHW_DESCRIPTOR_WORDS + word] = static_cast<int32_t>(value);
    std::memcpy(activations, noise.data(), noise.size());
    const int result = yhw_accel(reinterpret_cast<const yhw::word_t*>(params),
                                 reinterpret_cast<yhw::word_t*>(activations), words.data(), record + 1 - count, count);
    std::printf("%d %d\n", result, std::memcmp(activations, noise.data(), noise.size()) != 0);
    std::fflush(stdout);
  }
  return 0;
}
