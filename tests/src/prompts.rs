//! Twenty prompts of different kinds, for comparing answers.

/// The prompts.
pub const PROMPTS: [&str; 20] = [
    "What is gravity?",
    "Name three primary colours.",
    "Explain photosynthesis to a child.",
    "Write a haiku about the sea.",
    "What is the capital of Mongolia?",
    "List the steps to boil an egg.",
    "Why is the sky blue?",
    "Translate 'good morning' into French.",
    "What is 17 times 23?",
    "Describe a thunderstorm in two sentences.",
    "Who wrote Hamlet?",
    "Give me a recipe for pancakes.",
    "What does an operating system do?",
    "Write a Python function that reverses a string.",
    "What is the difference between a virus and a bacterium?",
    "Summarise the plot of Cinderella.",
    "How do bees make honey?",
    "What is inflation in economics?",
    "Suggest a name for a black cat.",
    "Erkl\u{e4}re kurz, was ein Vulkan ist.",
];
