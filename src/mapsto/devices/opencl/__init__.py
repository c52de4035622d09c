"""OpenCL devices: loop-language functions printed as OpenCL C, built and run by pyopencl."""
