"""OpenCL devices: tasks into kernels in OpenCL C, built and run by pyopencl."""
