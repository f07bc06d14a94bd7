// SPDX-License-Identifier: Apache-2.0
// The engine for Python: numpy in, numpy out. Called by yolo_hw/intgraph/engine.py only.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "engine.h"

namespace py = pybind11;

namespace {

using yhw::Code;
using yhw::Engine;
using yhw::Requantiser;
using yhw::Shape;
using yhw::Window;

using Ints = py::array_t<int32_t, py::array::c_style>;
using Codes = py::array_t<Code, py::array::c_style>;
using Triple = std::array<int, 3>;  // channels, height, width

using FormatPair = std::pair<int, bool>;  // bits, signed

yhw::Format to_format(const FormatPair& format) { return {format.first, format.second}; }
Shape to_shape(const Triple& t) { return {t[0], t[1], t[2]}; }

// size, stride, pad, dilation; vertical first.
Window to_window(const std::array<int, 8>& w) { return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]}; }

Requantiser make_requantiser(const Ints& shift, const std::array<int64_t, 8>& params, int rounding, int overflow,
                             const Codes& table, int acc_bits) {
  if (rounding < 0 || rounding > 3 || overflow < 0 || overflow > 2) {
    throw std::invalid_argument("engine: unknown rounding or overflow mode");
  }
  Requantiser r;
  r.params = {params[0], params[1], static_cast<int>(params[2]), params[3], params[4], static_cast<int>(params[5]),
              params[6], params[7]};
  r.rounding = static_cast<yhw::Rounding>(rounding);
  r.overflow = static_cast<yhw::Overflow>(overflow);
  r.shift.assign(shift.data(), shift.data() + shift.size());
  r.table.assign(table.data(), table.data() + table.size());
  r.acc_bits = acc_bits;
  return r;
}

int add_conv(Engine& engine, int in, const Triple& out, const FormatPair& format, const Codes& weight, const Ints& bias,
             const std::array<int, 8>& window, int groups, const Requantiser& requant) {
  yhw::ConvParams conv{to_window(window), groups, {}, {}};
  conv.weight.assign(weight.data(), weight.data() + weight.size());
  conv.bias.assign(bias.data(), bias.data() + bias.size());
  return engine.conv(in, to_shape(out), to_format(format), std::move(conv), requant);
}

// input: [C, H, W], or [H, W, C] where `channels_last`.
template <typename T>
void run_image(Engine& engine, const py::array_t<T, py::array::c_style>& input, bool channels_last) {
  const Shape shape = engine.shape(0);
  const int rows = channels_last ? 0 : 1, channels = channels_last ? 2 : 0;
  if (input.ndim() != 3 || input.shape(channels) != shape.c || input.shape(rows) != shape.h ||
      input.shape(rows + 1) != shape.w) {
    throw std::invalid_argument("engine: the input does not have the graph's shape");
  }
  py::gil_scoped_release release;
  engine.run(input.data(), channels_last);
}

Codes read_tensor(const Engine& engine, int tensor) {
  const Shape shape = engine.shape(tensor);
  Codes result({shape.c, shape.h, shape.w});
  engine.read(tensor, result.mutable_data());
  return result;
}

}  // namespace

PYBIND11_MODULE(_engine, m) {
  m.doc() = "Integer engine of yolo_hw; use yolo_hw.intgraph.engine.";
  py::class_<Requantiser>(m, "Requantiser")
      .def(py::init(&make_requantiser), py::arg("shift"), py::arg("params"), py::arg("rounding"), py::arg("overflow"),
           py::arg("table"), py::arg("acc_bits"));
  py::class_<Engine>(m, "Engine")
      .def(py::init([](const std::string& path, int threads, const Triple& input, const FormatPair& format) {
             return std::make_unique<Engine>(path, threads, to_shape(input), to_format(format));
           }),
           py::arg("path"), py::arg("threads"), py::arg("input"), py::arg("format"))
      .def_property_readonly("path", &Engine::path)
      .def_property_readonly("threads", &Engine::threads)
      .def("conv", &add_conv)
      .def("add",
           [](Engine& e, const std::vector<int>& inputs, const std::vector<int>& left_shifts, const FormatPair& format,
              const Requantiser& requant) { return e.add(inputs, left_shifts, to_format(format), requant); })
      .def("mul", [](Engine& e, int map, int factors, const FormatPair& format,
                     const Requantiser& requant) { return e.mul(map, factors, to_format(format), requant); })
      .def("avgpool", [](Engine& e, int in, const FormatPair& format,
                         const Requantiser& requant) { return e.avgpool(in, to_format(format), requant); })
      .def("maxpool", [](Engine& e, int in, const Triple& out,
                         const std::array<int, 8>& window) { return e.maxpool(in, to_shape(out), to_window(window)); })
      .def("concat", &Engine::concat)
      .def("slice", &Engine::slice)
      .def("upsample", &Engine::upsample)
      .def("permute",
           [](Engine& e, int in, const Triple& out, const Ints& sources) {
             return e.permute(in, to_shape(out), {sources.data(), sources.data() + sources.size()});
           })
      .def("build", &Engine::build)
      .def("memory",
           [](const Engine& e) {
             const yhw::MemoryUse use = e.memory();
             return py::dict(py::arg("weights") = use.weights, py::arg("arena") = use.arena,
                             py::arg("scratch") = use.scratch);
           })
      // No implicit conversion: codes of another type are refused, not cut to size.
      .def("run", &run_image<uint8_t>, py::arg("codes").noconvert(), py::arg("channels_last") = false)
      .def("run", &run_image<int8_t>, py::arg("codes").noconvert(), py::arg("channels_last") = false)
      .def("run", &run_image<Code>, py::arg("codes").noconvert(), py::arg("channels_last") = false)
      .def("seconds", &Engine::seconds)
      .def("read", &read_tensor);
  m.def("paths", &Engine::paths, "Instruction sets this processor and build can run, best first.");
}
