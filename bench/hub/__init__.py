"""Results stores and students to and from the Hugging Face Hub; huggingface_hub is imported when it is needed."""
