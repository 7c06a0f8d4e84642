"""Models as files for other runtimes: ONNX, TensorRT and torch.export packages; and back again.

``import radio_core.export`` costs nothing; its modules import torch, and the packages of the
extras ``export`` and ``tensorrt`` where they are used.
"""
