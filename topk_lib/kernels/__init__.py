"""Triton kernels. They check nothing and know no gradients: ``topk_lib.ops`` calls them.

They run natively on a GPU, and in Triton's interpreter (``TRITON_INTERPRET=1``) on a CPU.
"""
