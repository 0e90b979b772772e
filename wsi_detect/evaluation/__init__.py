"""Truth against prediction: average precision, recall at false positives per image, intervals by resampling images."""
