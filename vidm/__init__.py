"""Video Implicit Diffusion Models (Mei & Patel, AAAI 2023)."""

__version__ = "0.1.0"
