"""Triton kernels. They check nothing and know no gradients: ``topk_lib.ops`` calls them.

They run natively on a GPU, and in Triton's interpreter (``TRITON_INTERPRET=1``) on a CPU.
"""

import os

# Triton 3.9 warns at each compilation where this is not said; fused is what it did so far.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
