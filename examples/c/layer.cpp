/* layer.cpp: a batch-norm layer in C++ that owns its memory: trains on a few batches, goes backward, and serves from
 * several threads at once, with the same bits. */
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cbn.h"

namespace {

void check(int status)
{
    if (status != CBN_OK)
        throw std::bad_alloc();
}

/* Of float arrays of shape (N, C, L). */
class BatchNorm {
public:
    explicit BatchNorm(std::ptrdiff_t channels, double eps = 1e-5, double momentum = 0.1)
        : weight(channels, 1), bias(channels, 0), weight_grad(channels), bias_grad(channels), channels_(channels),
          eps_(eps), momentum_(momentum), running_mean_(channels, 0), running_var_(channels, 1), mean_(channels),
          m2_(channels), inv_std_(channels)
    {
    }

    std::vector<float> train(const std::vector<float> &x)
    {
        const std::ptrdiff_t count = count_of(x);
        if (count < 2)
            throw std::invalid_argument("x must have more than 1 value per channel; got " + std::to_string(count));
        std::vector<float> y(x.size());
        check(cbn_forward(y.data(), mean_.data(), m2_.data(), inv_std_.data(), x.data(), weight.data(), bias.data(),
                          eps_, nullptr, CBN_FLOAT32, CBN_FLOAT32, 1, channels_, count, 2));
        cbn_update_running(running_mean_.data(), mean_.data(), 1, momentum_, CBN_FLOAT32, channels_);
        cbn_update_running(running_var_.data(), m2_.data(), double(count - 1), momentum_, CBN_FLOAT32, channels_);
        return y;
    }

    std::vector<float> backward(const std::vector<float> &dy, const std::vector<float> &x)
    {
        std::vector<float> dx(x.size());
        check(cbn_backward(dx.data(), weight_grad.data(), bias_grad.data(), dy.data(), x.data(), weight.data(),
                           mean_.data(), inv_std_.data(), 1, nullptr, CBN_FLOAT32, CBN_FLOAT32, 1, channels_,
                           count_of(x), 2));
        return dx;
    }

    /* Any number of threads may call this at the same time. */
    std::vector<float> serve(const std::vector<float> &x, int num_threads) const
    {
        std::vector<float> y(x.size());
        check(cbn_inference(y.data(), x.data(), weight.data(), bias.data(), running_mean_.data(), running_var_.data(),
                            eps_, nullptr, CBN_FLOAT32, CBN_FLOAT32, CBN_FLOAT32, 1, channels_, count_of(x),
                            num_threads));
        return y;
    }

    std::vector<float> weight, bias, weight_grad, bias_grad;

private:
    std::ptrdiff_t count_of(const std::vector<float> &x) const
    {
        if (x.size() % std::size_t(channels_))
            throw std::invalid_argument("x must have a multiple of " + std::to_string(channels_) + " values; got " +
                                        std::to_string(x.size()));
        return std::ptrdiff_t(x.size()) / channels_;
    }

    std::ptrdiff_t channels_;
    double eps_, momentum_;
    std::vector<float> running_mean_, running_var_;
    std::vector<double> mean_, m2_, inv_std_;
};

std::vector<float> batch(std::ptrdiff_t channels, std::ptrdiff_t length, int seed)
{
    std::vector<float> x(std::size_t(channels * length));
    for (std::size_t i = 0; i < x.size(); i++)
        x[i] = 1000 + float((i * 2654435761u + unsigned(seed)) % 1024) / 256;
    return x;
}

} // namespace

int main()
{
    const std::ptrdiff_t channels = 3, length = 50000;
    BatchNorm layer(channels);
    for (int step = 0; step < 100; step++)
        layer.train(batch(channels, length, step));

    const std::vector<float> x = batch(channels, length, 100), y = layer.train(x), dx = layer.backward(y, x);
    double sum = 0, squares = 0, largest = 0;
    for (std::size_t i = 0; i < std::size_t(length); i++) {
        sum += double(y[i]);
        squares += double(y[i]) * double(y[i]);
        largest = std::fmax(largest, std::fabs(double(dx[i])));
    }
    std::printf("cbn %s, instruction set %s\n", cbn_version(), cbn_isa());
    std::printf("trained: mean %.6f, deviation %.6f\n", sum / double(length), std::sqrt(squares / double(length)));
    std::printf("largest gradient of sum(y * y) / 2: %.1e\n", largest);

    const std::vector<float> expected = layer.serve(x, 1);
    bool same[4];
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&, t] { same[t] = layer.serve(x, t + 1) == expected; });
    for (std::thread &thread : threads)
        thread.join();
    for (int t = 0; t < 4; t++)
        if (!same[t]) {
            std::printf("thread %d got other bits\n", t);
            return 1;
        }
    std::printf("served from 4 threads: the same bits\n");

    try {
        layer.train({1, 2, 3});
    } catch (const std::invalid_argument &error) {
        std::printf("refused: %s\n", error.what());
        return 0;
    }
    return 1;
}
