"""Segmentation networks, the semantic autoencoder and the alignment networks between them."""
