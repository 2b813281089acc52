"""Videos to frames to tensors: layouts, video, extract, store, clips, and the embedded sky."""
