"""Domains and their readers, preparation, tile sampling, augmentation on the device."""
