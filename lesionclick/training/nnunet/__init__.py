"""Trainers for nnU-Net's extension door; this folder is what `nnUNet_extTrainer` names."""
