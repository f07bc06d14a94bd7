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

Shape to_shape(const Triple& t) { return {t[0], t[1], t[2]}; }

// size, stride, pad, dilation; vertical first.
Window to_window(const std::array<int, 8>& w) { return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]}; }

Requantiser make_requantiser(const Ints& shift, const std::array<int64_t, 8>& params, int rounding, int overflow,
                             const Codes& table, bool narrow) {
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
  r.narrow = narrow;
  return r;
}

int add_conv(Engine& engine, int in, const Triple& out, const Ints& weight, const Ints& bias,
             const std::array<int, 8>& window, int groups, int acc_bits, const Requantiser& requant) {
  const yhw::ConvSpec spec{to_window(window), groups, weight.data(), bias.data(), acc_bits};
  const int64_t expected =
      groups < 1 ? -1 : static_cast<int64_t>(out[0]) * (engine.shape(in).c / groups) * spec.window.taps();
  if (weight.size() != expected || bias.size() != out[0]) {
    throw std::invalid_argument("engine: weight or bias does not fit the convolution");
  }
  return engine.conv(in, to_shape(out), spec, requant);
}

void run_image(Engine& engine, const Codes& input) {
  const Shape shape = engine.shape(0);
  if (input.ndim() != 3 || input.shape(0) != shape.c || input.shape(1) != shape.h || input.shape(2) != shape.w) {
    throw std::invalid_argument("engine: the input does not have the graph's shape");
  }
  py::gil_scoped_release release;
  engine.run(input.data());
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
           py::arg("table"), py::arg("narrow"));
  py::class_<Engine>(m, "Engine")
      .def(py::init([](const std::string& path, int threads, const Triple& input) {
             return std::make_unique<Engine>(path, threads, to_shape(input));
           }),
           py::arg("path"), py::arg("threads"), py::arg("input"))
      .def_property_readonly("path", &Engine::path)
      .def_property_readonly("threads", &Engine::threads)
      .def("conv", &add_conv)
      .def("add", &Engine::add)
      .def("mul", &Engine::mul)
      .def("avgpool", &Engine::avgpool)
      .def("maxpool", [](Engine& e, int in, const Triple& out,
                         const std::array<int, 8>& window) { return e.maxpool(in, to_shape(out), to_window(window)); })
      .def("concat", &Engine::concat)
      .def("slice", &Engine::slice)
      .def("upsample", &Engine::upsample)
      .def("permute",
           [](Engine& e, int in, const Triple& out, const Ints& sources) {
             return e.permute(in, to_shape(out), {sources.data(), sources.data() + sources.size()});
           })
      .def("run", &run_image)
      .def("read", &read_tensor);
  m.def("paths", &Engine::paths, "Instruction sets this processor and build can run, best first.");
}
