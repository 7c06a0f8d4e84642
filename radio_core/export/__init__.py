"""Models as files for other runtimes (ONNX, TensorRT, torch.export packages), and back again."""
