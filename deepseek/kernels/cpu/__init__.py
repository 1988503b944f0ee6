"""The fast CPU kernels: C++ behind a plain C interface (src/), the builder (build.py) and the binding (backend.py)."""
