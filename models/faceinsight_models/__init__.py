"""The FaceInsight architecture in torch, its training, and the default bundle.

Importing this package imports no torch.
"""
