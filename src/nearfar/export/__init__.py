"""Export of detectors and encoders to ONNX: graphs from samples to scores that need neither torch nor nearfar."""
