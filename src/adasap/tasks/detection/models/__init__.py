"""Small and large SSDs, and torchvision's detectors behind one interface."""
