# SPDX-License-Identifier: Apache-2.0
"""T1 (arXiv 2501.11651) in JAX: cold start, reinforcement learning in one compiled step, inference scaling."""

__version__ = "0.1.0"
