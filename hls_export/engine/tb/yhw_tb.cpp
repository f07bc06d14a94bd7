// SPDX-License-Identifier: Apache-2.0
// Test bench: runs the accelerator record by record on every golden case of the bundle and compares each node's
// accumulators and codes. Prints the first difference and returns 1, or returns 0.
// Usage: yhw_tb BUNDLE_FOLDER [GOLDEN_FOLDER CASE...], by default the cases of the bundle itself.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "yhw_accel.h"
#include "yhw_network.h"

namespace {

using yhw::word_t;

bool read_file(const std::string& path, std::vector<uint8_t>* data) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    std::printf("ERROR cannot open %s\n", path.c_str());
    return false;
  }
  std::fseek(file, 0, SEEK_END);
  const long size = std::ftell(file);
  std::fseek(file, 0, SEEK_SET);
  data->resize(size > 0 ? static_cast<size_t>(size) : 0);
  const size_t read = std::fread(data->data(), 1, data->size(), file);
  std::fclose(file);
  return read == data->size();
}

std::vector<word_t> to_words(const std::vector<uint8_t>& bytes) {
  std::vector<word_t> words((bytes.size() + yhw::kLanes - 1) / yhw::kLanes + 1);
  for (size_t i = 0; i < bytes.size(); ++i) {
    yhw::set_word_byte(&words[i / yhw::kLanes], static_cast<int>(i % yhw::kLanes), bytes[i]);
  }
  return words;
}

uint8_t byte_at(const std::vector<word_t>& memory, uint64_t address) {
  return yhw::word_byte(memory[address / yhw::kLanes], static_cast<int>(address % yhw::kLanes));
}

// Address of a code in the accelerator's layout.
uint64_t address_of(const yhw_tensor_t& t, int c, int y, int x) {
  const uint64_t pixel = (static_cast<uint64_t>(c / t.lanes) * t.h + y) * t.w + x;
  return t.offset + (pixel * t.lanes + c % t.lanes) * t.element_bytes;
}

int code_of(const uint8_t* bytes, int element_bytes, int is_signed) {
  if (element_bytes == 1) {
    return is_signed ? static_cast<int8_t>(bytes[0]) : bytes[0];
  }
  const uint16_t bits = static_cast<uint16_t>(bytes[0] | (bytes[1] << 8));
  return is_signed ? static_cast<int16_t>(bits) : bits;
}

struct Accumulator {
  int64_t acc;
  int shift;
};

// What the accelerator's trace hook saw of the current record, [C][H][W] of the node.
std::vector<Accumulator> g_seen;
const yhw_tensor_t* g_tensor = nullptr;

void trace(int channel, int pixel, int64_t acc, int shift) {
  g_seen[static_cast<size_t>(channel) * g_tensor->h * g_tensor->w + pixel] = {acc, shift};
}

// Golden accumulators are int32, or int64 where the contract has more than 32 bits.
int64_t golden_acc(const std::vector<uint8_t>& data, size_t index) {
  if (YHW_ACC_BITS <= 32) {
    int32_t value;
    std::memcpy(&value, data.data() + 4 * index, 4);
    return value;
  }
  int64_t value;
  std::memcpy(&value, data.data() + 8 * index, 8);
  return value;
}

struct Case {
  std::string folder;
  std::string name;
  std::vector<word_t> memory;
};

bool compare(const Case& test, const yhw_tensor_t& t) {
  std::vector<uint8_t> codes, accs;
  const size_t size = static_cast<size_t>(t.c) * t.h * t.w;
  if (!read_file(test.folder + "/" + t.name + ".out.bin", &codes) || codes.size() != size * t.element_bytes) {
    std::printf("ERROR case %s layer %s: golden codes are missing or have the wrong size\n", test.name.c_str(), t.name);
    return false;
  }
  const size_t acc_bytes = YHW_ACC_BITS <= 32 ? 4 : 8;
  if (t.has_acc && (!read_file(test.folder + "/" + t.name + ".acc.bin", &accs) || accs.size() != size * acc_bytes)) {
    std::printf("ERROR case %s layer %s: golden accumulators are missing or have the wrong size\n", test.name.c_str(),
                t.name);
    return false;
  }
  for (size_t i = 0; i < size; ++i) {
    const int c = static_cast<int>(i / (static_cast<size_t>(t.h) * t.w));
    const int y = static_cast<int>(i / t.w % t.h), x = static_cast<int>(i % t.w);
    uint8_t bytes[2] = {0, 0};
    for (int b = 0; b < t.element_bytes; ++b) {
      bytes[b] = byte_at(test.memory, address_of(t, c, y, x) + b);
    }
    const int got = code_of(bytes, t.element_bytes, t.is_signed);
    const int expected = code_of(&codes[i * t.element_bytes], t.element_bytes, t.is_signed);
    const bool acc_differs = t.has_acc && golden_acc(accs, i) != g_seen[i].acc;
    if (got != expected || acc_differs) {
      std::printf("DIFFERENCE case %s layer %s channel %d row %d column %d expected %d got %d", test.name.c_str(),
                  t.name, c, y, x, expected, got);
      if (t.has_acc) {
        std::printf(" accumulator expected %lld got %lld shift %d", static_cast<long long>(golden_acc(accs, i)),
                    static_cast<long long>(g_seen[i].acc), g_seen[i].shift);
      }
      std::printf("\n");
      return false;
    }
  }
  return true;
}

bool load_image(Case* test) {
  const yhw_tensor_t& t = yhw_tensors[0];
  std::vector<uint8_t> image;
  const size_t size = static_cast<size_t>(t.c) * t.h * t.w;
  if (!read_file(test->folder + "/input.bin", &image) || image.size() != size) {
    std::printf("ERROR case %s: the input is missing or has the wrong size\n", test->name.c_str());
    return false;
  }
  for (size_t i = 0; i < size; ++i) {
    const int c = static_cast<int>(i / (static_cast<size_t>(t.h) * t.w));
    const uint64_t address = address_of(t, c, static_cast<int>(i / t.w % t.h), static_cast<int>(i % t.w));
    yhw::set_word_byte(&test->memory[address / yhw::kLanes], static_cast<int>(address % yhw::kLanes), image[i]);
  }
  return true;
}

// Runs one golden case; every tensor is compared after the record that completes it.
bool run_case(const std::string& golden, const std::string& name, const std::vector<word_t>& params,
              const std::vector<int32_t>& descriptors, int records) {
  Case test{golden + "/" + name, name, {}};
  // Memory starts as noise, so that a code read before it is written cannot pass for zero.
  test.memory = to_words(std::vector<uint8_t>(YHW_ACTIVATION_BYTES, 0xa5));
  if (!load_image(&test)) {
    return false;
  }
  for (int record = 0; record < records; ++record) {
    const int node = descriptors[static_cast<size_t>(record) * YHW_DESCRIPTOR_WORDS + 2];
    g_tensor = &yhw_tensors[1 + node];
    g_seen.assign(static_cast<size_t>(g_tensor->c) * g_tensor->h * g_tensor->w, {0, 0});
    yhw::g_trace = trace;
    if (yhw_accel(params.data(), test.memory.data(), descriptors.data(), record, 1) != 0) {
      std::printf("ERROR case %s: the accelerator cannot run record %d\n", name.c_str(), record);
      return false;
    }
    for (int i = 1; i < YHW_NUM_TENSORS; ++i) {
      if (yhw_tensors[i].after_record == record && !compare(test, yhw_tensors[i])) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc < 4) {
    std::printf("usage: %s BUNDLE_FOLDER [GOLDEN_FOLDER CASE...]\n", argv[0]);
    return 2;
  }
  const std::string bundle = argv[1], golden = argc == 2 ? bundle + "/golden" : argv[2];
  std::vector<std::string> cases(argv + (argc == 2 ? 2 : 3), argv + argc);
  for (int i = 0; i < YHW_NUM_CASES && argc == 2; ++i) {
    cases.push_back(yhw_cases[i]);
  }
  if (cases.empty()) {
    std::printf("ERROR the bundle holds digests of its golden vectors only; yolo-hw verify simulates it\n");
    return 2;
  }
  std::vector<uint8_t> params, records;
  if (!read_file(bundle + "/ddr/params.bin", &params) || !read_file(bundle + "/ddr/descriptors.bin", &records)) {
    return 2;
  }
  const int count = static_cast<int>(records.size() / (4 * YHW_DESCRIPTOR_WORDS));
  std::vector<int32_t> descriptors(records.size() / 4);
  std::memcpy(descriptors.data(), records.data(), descriptors.size() * 4);
  const std::vector<word_t> param_words = to_words(params);
  for (const std::string& name : cases) {
    if (!run_case(golden, name, param_words, descriptors, count)) {
      return 1;
    }
    std::printf("EQUAL case %s: %d records, %d tensors\n", name.c_str(), count, YHW_NUM_TENSORS - 1);
  }
  return 0;
}
