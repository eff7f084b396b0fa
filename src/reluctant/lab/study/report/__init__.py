"""What a study has found, in sentences, tables and charts, in English and in Chinese."""
