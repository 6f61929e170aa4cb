"""What each stage of the pipeline does, on tensors; knows no Ray and no MLflow."""
