"""A report as LaTeX: a document, fragments for other documents, and figures as PDF."""
