# SPDX-License-Identifier: Apache-2.0
# Vitis HLS: vitis_hls -f run_hls.tcl, in the bundle's hls folder. PART and CLOCK_NS may be set in the environment.
set part [expr {[info exists env(PART)] ? $env(PART) : "xczu7ev-ffvc1156-2-e"}]
set clock_ns [expr {[info exists env(CLOCK_NS)] ? $env(CLOCK_NS) : 4.0}]
set flags "-std=c++14 -DYHW_AP -I[pwd]"

open_project -reset yhw_project
set_top yhw_accel
add_files yhw_accel.cpp -cflags $flags
add_files -tb tb/yhw_tb.cpp -cflags $flags
open_solution -reset solution
set_part $part
create_clock -period $clock_ns
csim_design -argv [file normalize ..]
csynth_design
export_design -format ip_catalog
exit
